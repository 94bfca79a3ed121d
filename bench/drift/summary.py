"""The figures of the drift suite, computed from its rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

from bench.common.intervals import exact_interval

BLIND = 0.01  # where accuracy on current data moves by less, a team sees no change
OURS, WITH_DATA = "pydrift, gray only", "pydrift, with reference data"
STRENGTHS = ("subtle", "between", "blatant")


def auroc(drifted: np.ndarray, benign: np.ndarray) -> float:
    """Returns the area under the ROC curve of two samples of scores."""
    return float(stats.mannwhitneyu(drifted, benign).statistic / (len(drifted) * len(benign)))


def summary(rows: list[dict[str, Any]], method: str, keep: Callable[[dict[str, Any]], bool] = lambda row: True) -> dict:
    """Returns one line of the table, for the drifted candidates that `keep` accepts and all benign ones.

    auroc, found_at_5  of the scores; the share above the 95 % quantile of the benign scores
    first              share of candidates whose first class has drifted
    named_right        of the classes that the method names, the share that has drifted
    named_found        of the classes that have drifted, the share that the method names
    found              share of drifted candidates that the method's own rule finds
    false_alarms       the same of benign candidates, with its exact 95 % interval
    """
    found = [(row["candidate"], row["methods"][method]) for row in rows]
    benign = [m for u, m in found if u["drift"] is None]
    drifted = [(row["candidate"], row["methods"][method]) for row in rows if row["candidate"]["drift"] and keep(row)]
    scores = np.array([m["score"] for m in benign])
    found_scores = np.array([m["score"] for _, m in drifted])
    threshold = np.quantile(scores, 0.95)
    first = [m["first"] in u["classes"] for u, m in drifted if u["classes"]]  # naming no class is wrong
    named = [(set(m["named"]), set(u["classes"])) for u, m in drifted if u["classes"] and m.get("named")]
    line: dict[str, Any] = {
        "auroc": auroc(found_scores, scores),
        "found_at_5": float((found_scores > threshold).mean()),
        "first": float(np.mean(first)) if first and any(m["first"] is not None for _, m in drifted) else None,
        "named_right": float(np.mean([len(n & c) / len(n) for n, c in named])) if named else None,
        "named_found": float(np.mean([len(n & c) / len(c) for n, c in named])) if named else None,
        "found": None,
        "false_alarms": None,
        "interval": None,
        "drifted": len(drifted),
        "benign": len(benign),
    }
    if benign[0]["alarm"] is not None:
        alarms = sum(bool(m["alarm"]) for m in benign)
        low, high = exact_interval(alarms, len(benign))
        line["found"] = float(np.mean([bool(m["alarm"]) for _, m in drifted]))
        line["false_alarms"], line["interval"] = alarms / len(benign), [low, high]
    return line


def accuracy_blind(row: dict[str, Any]) -> bool:
    """Whether accuracy on current data does not show the candidate's drift."""
    return abs(row["methods"]["accuracy, current set"]["score"]) < BLIND


def is_kind(row: dict[str, Any], kind: str, strength: int) -> bool:
    """Whether the candidate is of this kind and strength."""
    return (row["candidate"]["kind"], row["candidate"]["strength"]) == (kind, strength)


def print_tables(cell: dict[str, Any]) -> None:
    """Prints the tables of one data set and update mode."""
    rows = cell["rows"]
    methods = list(rows[0]["methods"])
    print(
        f"\n{cell['set']}, {cell['update_mode']}: {sum(r['candidate']['drift'] is None for r in rows)} benign "
        f"candidates, {sum(r['candidate']['drift'] is not None for r in rows)} drifted ones"
    )
    print(f"{'':36}AUROC  found at 5 %  first  own rule: found  named right, of all  false alarms")
    for method in methods:
        _print_line(method, summary(rows, method))
    if "accuracy, current set" in methods:
        print("where accuracy on current data moves by less than 1 %:")
        for method in methods:
            _print_line(method, summary(rows, method, accuracy_blind))
    print(f"{OURS}, AUROC and found at 5 %, by kind and strength:")
    for kind in dict.fromkeys(row["candidate"]["kind"] for row in rows if row["candidate"]["drift"] is not None):
        parts = []
        for strength, word in enumerate(STRENGTHS):
            line = summary(rows, OURS, partial(is_kind, kind=kind, strength=strength))
            parts.append(f"{word} {line['auroc']:.2f} {line['found_at_5']:4.0%}")
        print(f"  {kind:10}", "   ".join(parts))
    p_values = np.concatenate([r["methods"][OURS]["p_values"] for r in rows if r["candidate"]["drift"] is None])
    test = stats.kstest(p_values, "uniform")
    shares = ", ".join(f"{(p_values <= p).mean():.1%} <= {p:g}" for p in (0.01, 0.05, 0.5))
    print(
        f"p of the classes of benign candidates: {shares}; Kolmogorov-Smirnov distance from uniform "
        f"{test.statistic:.3f}, p {test.pvalue:.0e} if classes were independent"
    )
    kinds: dict[str, list[bool]] = {}
    for row in rows:
        if row["candidate"]["drift"] is None:
            kinds.setdefault(row["candidate"]["kind"], []).append(row["methods"][OURS]["alarm"])
    print("false alarms by change:", ", ".join(f"{kind} {sum(a)}/{len(a)}" for kind, a in kinds.items()), flush=True)


def _print_line(method: str, line: dict[str, Any]) -> None:
    def percent(value: float | None) -> str:
        return "" if value is None else f"{value:.0%}"

    alarms = percent(line["false_alarms"])
    if line["interval"] is not None:
        alarms += f" [{line['interval'][0]:.0%}, {line['interval'][1]:.0%}]"
    parts = [percent(line[name]) for name in ("found_at_5", "first", "found")]
    named = ", ".join(filter(None, (percent(line[name]) for name in ("named_right", "named_found"))))
    print(f"{method:36}{line['auroc']:.3f}  {parts[0]:>12}  {parts[1]:>5}  {parts[2]:>15}  {named:>19}  {alarms}")
