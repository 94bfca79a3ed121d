"""Prints the tables of the drift suite in Markdown, from its committed results.

python -m bench.drift.tables bench/results/drift_suite_*.json
"""

import argparse
import json
from collections.abc import Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.drift.candidates import DRIFT, DRIFT_IN_RANGE, IN_RANGE, OUTSIDE, SAME
from bench.drift.summary import (
    OURS,
    OURS_UNKNOWN,
    OURS_VARIED,
    STRENGTHS,
    WITH_DATA,
    Row,
    accuracy_blind,
    is_kind,
    judged,
    shares,
    summary,
)

SETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "mnist": "MNIST", "digits": "digits"}
METHODS = {
    OURS: "**pydrift**, gray data only",
    OURS + WITH_DATA: "pydrift, test images too",
    "accuracy, current set": "accuracy on current data",
    "accuracy of the base, current set": "the base's accuracy on current data",
    "accuracy, original set": "accuracy on the old test set",
    "disagreement": "disagreement on it",
    "BBSD of the models": "BBSD, base and candidate",
    "BBSD of the data": "BBSD, old and current data",
    "KS of features": "KS of features, old and current data",
    "MMD of features": "MMD of features, old and current data",
    "weight distance": "weight distance",
    "CKA": "CKA",
}
KINDS = {
    "relabel": "10, 25, 50 % of a class labelled as another",
    "swap": "10, 25, 100 % of two classes exchanged",
    "rotate": "a class turned by 15, 30, 90 degrees",
    "darken": "a class at .8, .6, .4 of its brightness",
    "patch": "a patch on 25, 50, 100 % of a class",
    "noise": "noise of .1, .2, .3 on all images",
    "remove": "75, 90, 100 % of a class missing",
    "expand": "foreign images added to a class, 10, 25, 50 % of its number",
    "flip": "25, 50, 100 % of a class mirrored",
    "backdoor": "a patch that makes a class, on 2, 5, 10 % of all images",
    "merge": "two classes made one: alike, between, unlike",
}
Cell = dict[str, Any]
Line = dict[str, Any]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="result files of the drift suite")
    cells = [cell for path in parser.parse_args().results for cell in json.loads(path.read_text())["cells"]]
    cells.sort(key=lambda cell: list(SETS).index(cell["set"]))  # stable: the modes keep their order
    print_tables(cells)


def print_cell(cell: Cell) -> None:
    """Prints the tables of one data set and update mode."""
    print_tables([cell])


def print_tables(cells: list[Cell]) -> None:
    """Prints all tables, with a column for each data set and update mode."""
    table("the recipe is the base's", cells, own_rule(cells, OURS, SAME, DRIFT))
    if any(cell["set"] == "cifar10" for cell in cells):
        most = own_rule(cells, OURS, SAME, DRIFT, mirrored=False)
        table("the same without mirrored classes", cells, [row for row in most if row[0] in OF_DRIFT])
    table("the recipe has changed in range", cells, own_rule(cells, OURS_VARIED, IN_RANGE, DRIFT_IN_RANGE))
    table("nobody knows the recipe, which is the base's", cells, own_rule(cells, OURS_UNKNOWN, SAME, DRIFT))
    unknown = own_rule(cells, OURS_UNKNOWN, IN_RANGE, DRIFT_IN_RANGE)
    table("nobody knows the recipe, which has changed in range", cells, unknown)
    table("nobody knows the recipe: says drift, the recipe, stable", cells, outsiders(cells))
    table("with test images, the recipe is the base's", cells, own_rule(cells, OURS + WITH_DATA, SAME, DRIFT))
    first = [{**cell, "rows": [row for row in cell["rows"] if row["draw"] == 0]} for cell in cells]
    if all(any("CKA" in row["methods"] for row in cell["rows"]) for cell in cells):
        compared = [{method: summary(cell["rows"], method) for method in METHODS} for cell in first]
        rows: Iterable[tuple[str, list[str]]]
        rows = ((METHODS[m], [auroc_and_found(lines[m]) for lines in compared]) for m in METHODS)
        table("first draw of shadows: AUROC, found at 5 %", cells, rows)
        rows = (
            (METHODS[m], [f"{percent(lines[m]['found'])}, {percent(lines[m]['false_alarms'])}" for lines in compared])
            for m in METHODS
            if compared[0][m]["found"] is not None
        )
        table("own rule: found, false alarms", cells, rows)
        blind = [{method: summary(cell["rows"], method, keep=accuracy_blind) for method in METHODS} for cell in first]
        seen = ("drifted candidates", [str(lines[OURS]["drifted"]) for lines in blind])
        rows = ((METHODS[m], [auroc_and_found(lines[m]) for lines in blind]) for m in METHODS)
        table("where accuracy on current data moves by < 1 %: AUROC, found at 5 %", cells, (seen, *rows))
    kinds = ((name, [by_strength(cell, kind) for cell in cells]) for kind, name in KINDS.items())
    table("found by the own rule, the recipe is the base's: subtle, between, blatant", cells, kinds)


def table(title: str, cells: list[Cell], rows: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Prints one table, with a column for each data set and update mode."""
    names: list[str] = []
    for of_set, some in groupby(cells, key=lambda cell: str(cell["set"])):
        modes = [cell["update_mode"] for cell in some]
        names += [f"{SETS[of_set]}, {modes[0]}", *modes[1:]]
    for row in ((title, names), ("---", ["---"] * len(names)), *rows):
        print("|", " | ".join((row[0], *row[1])), "|")
    print(flush=True)


OF_DRIFT = ("found by the own rule at 0.05, in the worst draw", "AUROC", "right class first")


def own_rule(
    cells: list[Cell], method: str, benign: str, drifted: str, mirrored: bool = True
) -> list[tuple[str, list[str]]]:
    """The rows about a method's own rule."""

    def kept(row: Row) -> bool:
        return mirrored or row["candidate"]["kind"] != "flip"

    lines = [summary(cell["rows"], method, benign, drifted, kept) for cell in cells]
    return [
        ("benign, drifted judgements", [f"{s['benign']}, {s['drifted']}" for s in lines]),
        (
            "false alarms at alpha 0.05 [upper 95 % limit]",
            [f"{s['alarms']} = {tenth(s['false_alarms'])} [{tenth(s['limit'])}]" for s in lines],
        ),
        ("benign: p <= .2, p <= .5", [f"{s['p_02']:.2f}, {s['p_05']:.2f}" for s in lines]),
        ("benign: inconclusive", [inconclusive(cell["rows"], method, benign) for cell in cells]),
        (OF_DRIFT[0], [f"{percent(s['found'])}, {percent(s['worst'])}" for s in lines]),
        (OF_DRIFT[1], [auroc(s["auroc"]) for s in lines]),
        (OF_DRIFT[2], [percent(s["first"]) for s in lines]),
        (
            "of the classes named, right; of those changed, named",
            [f"{percent(s['named_right'])}, {percent(s['named_found'])}" for s in lines],
        ),
    ]


def inconclusive(rows: list[Row], method: str, group: str) -> str:
    found = [m["verdict"] == "inconclusive" for _, m, _ in judged(rows, method, [group])]
    return tenth(sum(found) / len(found))


def outsiders(cells: list[Cell]) -> Iterable[tuple[str, list[str]]]:
    """Yields a row for each change that no shadow makes."""
    kinds = dict.fromkeys(
        row["candidate"]["kind"] for cell in cells for row in cell["rows"] if row["candidate"]["group"] == OUTSIDE
    )
    for kind in kinds:
        found = [shares(cell["rows"], OURS_UNKNOWN, OUTSIDE, kind) for cell in cells]
        yield (
            kind,
            [", ".join(f"{round(s[k] * s['candidates'])}" for k in ("drift", "recipe", "stable")) for s in found],
        )


def auroc_and_found(line: Line) -> str:
    return f"{auroc(line['auroc'])}, {percent(line['found_at_5'])}"


def by_strength(cell: Cell, kind: str) -> str:
    """Shares of a kind of drift that are found, by strength; - where the data set has no such drift."""
    if not any(row["candidate"]["kind"] == kind for row in cell["rows"]):
        return "-"
    found = [
        summary(cell["rows"], OURS, keep=partial(is_kind, kind=kind, strength=strength))
        for strength in range(len(STRENGTHS))
        if any(is_kind(row, kind, strength) and OURS in row["methods"] for row in cell["rows"])
    ]
    return ", ".join(percent(line["found"]) for line in found)


def auroc(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}f}"
    return "1" if float(text) == 1 else text.lstrip("0")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


def tenth(share: float) -> str:
    return f"{100 * share:.1f} %"


if __name__ == "__main__":
    main()
