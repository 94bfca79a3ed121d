"""The tables of the drift suite, from its rows."""

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
from scipy import stats

BLIND = 0.01  # accuracy on current data moved by less: what a team sees has not changed
OURS, WITH_DATA = "pydrift, gray only", "pydrift, with reference data"
STRENGTHS = ("subtle", "between", "blatant")


def auroc(drifted: np.ndarray, benign: np.ndarray) -> float:
    return float(stats.mannwhitneyu(drifted, benign).statistic / (len(drifted) * len(benign)))


def summary(rows: list[dict[str, Any]], method: str, keep: Callable[[dict[str, Any]], bool] = lambda row: True) -> dict:
    """One line of the table; drifted updates are those that `keep` keeps, benign ones are all."""
    found = [(row["update"], row["methods"][method]) for row in rows]
    benign = [m for u, m in found if u["drift"] is None]
    drifted = [(row["update"], row["methods"][method]) for row in rows if row["update"]["drift"] and keep(row)]
    scores = np.array([m["score"] for m in benign])
    found_scores = np.array([m["score"] for _, m in drifted])
    threshold = np.quantile(scores, 0.95)
    first = [m["first"] in u["classes"] for u, m in drifted if u["classes"]]  # a method that names none is wrong
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
        interval = stats.binomtest(alarms, len(benign)).proportion_ci(method="exact")
        line["found"] = float(np.mean([bool(m["alarm"]) for _, m in drifted]))
        line["false_alarms"], line["interval"] = alarms / len(benign), [interval.low, interval.high]
    return line


def accuracy_blind(row: dict[str, Any]) -> bool:
    return abs(row["methods"]["accuracy, current set"]["score"]) < BLIND


def is_kind(row: dict[str, Any], kind: str, strength: int) -> bool:
    return (row["update"]["kind"], row["update"]["strength"]) == (kind, strength)


def print_tables(cell: dict[str, Any]) -> None:
    rows = cell["rows"]
    methods = list(rows[0]["methods"])
    print(
        f"\n{cell['set']}, {cell['mode']}: {sum(r['update']['drift'] is None for r in rows)} benign updates, ", end=""
    )
    print(f"{sum(r['update']['drift'] is not None for r in rows)} drifted ones")
    print(f"{'':36}AUROC  found at 5 %  first  own rule: found  named right, of all  false alarms")
    for method in methods:
        _print_line(method, summary(rows, method))
    if "accuracy, current set" in methods:
        print("where accuracy on current data moves by less than 1 %:")
        for method in methods:
            _print_line(method, summary(rows, method, accuracy_blind))
    print(f"{OURS}, AUROC and found at 5 %, by kind and strength:")
    for kind in dict.fromkeys(row["update"]["kind"] for row in rows if row["update"]["drift"] is not None):
        parts = []
        for strength, word in enumerate(STRENGTHS):
            line = summary(rows, OURS, partial(is_kind, kind=kind, strength=strength))
            parts.append(f"{word} {line['auroc']:.2f} {line['found_at_5']:4.0%}")
        print(f"  {kind:10}", "   ".join(parts))
    p_values = np.concatenate([r["methods"][OURS]["p_values"] for r in rows if r["update"]["drift"] is None])
    test = stats.kstest(p_values, "uniform")
    shares = ", ".join(f"{(p_values <= p).mean():.1%} <= {p:g}" for p in (0.01, 0.05, 0.5))
    print(
        f"p of the classes of benign updates: {shares}; Kolmogorov-Smirnov distance from uniform {test.statistic:.3f}"
        f", p {test.pvalue:.0e} if classes were independent"
    )
    kinds: dict[str, list[bool]] = {}
    for row in rows:
        if row["update"]["drift"] is None:
            kinds.setdefault(row["update"]["kind"], []).append(row["methods"][OURS]["alarm"])
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
