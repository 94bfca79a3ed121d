"""Prints the tables of the drift suite in Markdown, from its committed results.

python -m bench.drift.tables bench/results/drift_suite_*.json
"""

import argparse
import json
from collections.abc import Callable, Iterable
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bench.drift.summary import OURS, STRENGTHS, WITH_DATA, accuracy_blind, is_kind, summary

SETS = {"fashion-mnist": "Fashion-MNIST", "cifar10": "CIFAR-10", "mnist": "MNIST", "digits": "digits"}
METHODS = {
    OURS: "**pydrift**, gray data only",
    WITH_DATA: "pydrift, test images too",
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("results", type=Path, nargs="+", help="result files of the drift suite")
    cells = [cell for path in parser.parse_args().results for cell in json.loads(path.read_text())["cells"]]
    cells.sort(key=lambda cell: list(SETS).index(cell["set"]))  # stable: the modes keep their order
    of_all = {method: [summary(cell["rows"], method) for cell in cells] for method in METHODS}
    blind = {method: [summary(cell["rows"], method, accuracy_blind) for cell in cells] for method in METHODS}
    table("AUROC, found at 5 %", cells, ((METHODS[m], map(auroc_and_found, of_all[m])) for m in METHODS))
    for method in (OURS, WITH_DATA):
        table(METHODS[method], cells, own_rule(of_all[method]))
    table(
        "own rule: found, false alarms",
        cells,
        ((METHODS[m], map(found_and_alarms, of_all[m])) for m in METHODS if of_all[m][0]["found"] is not None),
    )
    table("right class first", cells, ((METHODS[m], (percent(line["first"]) for line in of_all[m])) for m in METHODS))
    of_most = {m: [summary(cell["rows"], m, not_mirrored) for cell in cells] for m in (OURS, WITH_DATA)}
    rows = ((METHODS[m], map(auroc_and_found, lines)) for m, lines in of_most.items())
    table("without mirrored classes: AUROC, found at 5 %", cells, rows)
    seen = ("drifted candidates", (str(line["drifted"]) for line in blind[OURS]))
    rows = ((METHODS[m], map(auroc_and_found, blind[m])) for m in METHODS)
    table("where accuracy on current data moves by < 1 %: AUROC, found at 5 %", cells, (seen, *rows))
    for method in (OURS, WITH_DATA):
        for of_cell in (by_strength, found_by_strength):
            kinds = ((name, [of_cell(cell, kind, method) for cell in cells]) for kind, name in KINDS.items())
            table(f"{METHODS[method]}: {of_cell.__doc__}", cells, kinds)
        table(f"{METHODS[method]}: p of the classes of benign candidates", cells, p_values(cells, method))


def not_mirrored(row: dict[str, Any]) -> bool:
    """Whether the candidate's drift is no mirrored class."""
    return bool(row["candidate"]["kind"] != "flip")


def table(title: str, cells: list[Cell], rows: Iterable[tuple[str, Iterable[str]]]) -> None:
    """Prints one table, with a column for each data set and update mode."""
    names: list[str] = []
    for of_set, some in groupby(cells, key=lambda cell: str(cell["set"])):
        modes = [cell["update_mode"] for cell in some]
        names += [f"{SETS[of_set]}, {modes[0]}", *modes[1:]]
    for row in ((title, names), ("---", ["---"] * len(names)), *rows):
        print("|", " | ".join((row[0], *row[1])), "|")
    print()


def own_rule(lines: list[dict[str, Any]]) -> Iterable[tuple[str, Iterable[str]]]:
    """Yields the rows about a method's own rule."""

    def each(of_line: Callable[[dict[str, Any]], str]) -> Iterable[str]:
        return map(of_line, lines)

    yield (
        "false alarms at alpha 0.05",
        each(lambda s: f"{round(s['false_alarms'] * s['benign'])} of {s['benign']} {bounds(s)}"),
    )
    yield "found by the own rule at 0.05", each(lambda s: percent(s["found"]))
    yield "right class first", each(lambda s: percent(s["first"]))
    yield (
        "of the classes named, right; of those changed, named",
        each(lambda s: f"{percent(s['named_right'])}, {percent(s['named_found'])}"),
    )
    yield "benign, drifted candidates", each(lambda s: f"{s['benign']}, {s['drifted']}")


def auroc_and_found(line: dict[str, Any]) -> str:
    return f"{auroc(line['auroc'])}, {percent(line['found_at_5'])}"


def found_and_alarms(line: dict[str, Any]) -> str:
    return f"{percent(line['found'])}, {percent(line['false_alarms'])}"


def by_strength(cell: Cell, kind: str, method: str) -> str:
    """AUROC: subtle, between, blatant"""
    return ", ".join(auroc(line["auroc"], 2) for line in of_kind(cell, kind, method)) or "-"


def found_by_strength(cell: Cell, kind: str, method: str) -> str:
    """found at 5 %: subtle, between, blatant"""
    lines = of_kind(cell, kind, method)
    return ", ".join(f"{round(line['found_at_5'] * line['drifted'])} of {line['drifted']}" for line in lines) or "-"


def of_kind(cell: Cell, kind: str, method: str) -> list[dict[str, Any]]:
    """Returns the figures of one kind of drift by strength. Empty where the data set has no such drift."""
    if not any(row["candidate"]["kind"] == kind for row in cell["rows"]):
        return []
    return [
        summary(cell["rows"], method, partial(is_kind, kind=kind, strength=strength))
        for strength in range(len(STRENGTHS))
    ]


def p_values(cells: list[Cell], method: str) -> Iterable[tuple[str, Iterable[str]]]:
    """Yields the rows about the p-values of benign candidates, which should be uniform."""
    of_cells = [
        np.concatenate([r["methods"][method]["p_values"] for r in cell["rows"] if r["candidate"]["drift"] is None])
        for cell in cells
    ]
    for level in (0.01, 0.05, 0.5):
        yield f"p <= {level:g}", [f"{(p <= level).mean():.1%}" for p in of_cells]
    tests = [stats.kstest(p, "uniform") for p in of_cells]
    yield (
        "Kolmogorov-Smirnov distance from uniform, its p if classes were independent",
        [f"{test.statistic:.2f}, {test.pvalue:.0e}" for test in tests],
    )


def bounds(line: dict[str, Any]) -> str:
    low, high = line["interval"]
    return f"[{100 * low:.0f} %, {100 * high:.0f} %]"


def auroc(value: float, digits: int = 3) -> str:
    text = f"{value:.{digits}f}"
    return "1" if float(text) == 1 else text.lstrip("0")


def percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.0f} %"


if __name__ == "__main__":
    main()
