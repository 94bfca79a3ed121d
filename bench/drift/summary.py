"""The figures of the drift suite, computed from its rows."""

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
from scipy import stats

from bench.drift.candidates import DRIFT, SAME

BLIND = 0.01  # where accuracy on current data moves by less, a team sees no change
OURS, OURS_VARIED, OURS_UNKNOWN = "pydrift", "pydrift, varied shadows", "pydrift, recipe not known"
WITH_DATA = ", with test images"
STRENGTHS = ("subtle", "between", "blatant")
RESAMPLES = 2000  # of calibrations, for an interval

Row = dict[str, Any]
"""A candidate, the draw of shadows that judged it, and what every method says of it."""


def judged(rows: Iterable[Row], method: str, groups: Iterable[str]) -> list[tuple[dict, dict, tuple[int, int]]]:
    """Candidates of these groups that the method judged: candidate, finding, and which calibration judged it."""
    wanted = set(groups)
    return [
        (row["candidate"], row["methods"][method], (row["candidate"]["base"], row["draw"]))
        for row in rows
        if row["candidate"]["group"] in wanted and method in row["methods"]
    ]


def auroc(drifted: np.ndarray, benign: np.ndarray) -> float:
    """Returns the area under the ROC curve of two samples of scores."""
    return float(stats.mannwhitneyu(drifted, benign).statistic / (len(drifted) * len(benign)))


def clustered(values: np.ndarray, clusters: list[tuple[int, int]]) -> tuple[float, float]:
    """The 95 % interval of a mean, by a bootstrap of whole calibrations: candidates of one share its luck."""
    groups = [values[[c == one for c in clusters]] for one in sorted(set(clusters))]
    sums, counts = np.array([g.sum() for g in groups]), np.array([len(g) for g in groups])
    drawn = np.random.default_rng(0).integers(0, len(groups), (RESAMPLES, len(groups)))
    low, high = np.quantile(sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1), [0.025, 0.975])
    return float(low), float(high)


def upper_limit(alarms: np.ndarray, clusters: list[tuple[int, int]]) -> float:
    """The upper 95 % limit of a rate: the larger of the exact one-sided limit and the clustered one."""
    count, found = len(alarms), int(alarms.sum())
    exact = float(stats.beta.isf(0.05, found + 1, count - found)) if found < count else 1.0
    return max(exact, clustered(alarms.astype(float), clusters)[1])


def summary(
    rows: list[Row],
    method: str,
    benign: str = SAME,
    drifted: str = DRIFT,
    keep: Callable[[Row], bool] = lambda row: True,
) -> dict[str, Any]:
    """Returns the figures of one method, of the drifted candidates that `keep` accepts and all benign ones.

    auroc, found_at_5   of the scores; the share above the 95 % quantile of the benign scores. pydrift's scores are
                        minus log p, which any two calibrations share
    first               share of candidates whose first class has drifted
    named_right         of the classes that the method names, the share that has drifted
    named_found         of the classes that have drifted, the share that the method names
    found, worst        share of drifted candidates that the method's own rule finds; in the worst draw of shadows
    false_alarms        the same of benign candidates; limit: its upper 95 % limit
    p_02, p_05          shares of benign candidates with p <= .2 and <= .5
    """
    of_benign = judged(rows, method, [benign])
    of_drifted = judged([row for row in rows if keep(row)], method, [drifted])
    scores, found_scores = (np.array([_order(m) for _, m, _ in side]) for side in (of_benign, of_drifted))
    first = [m["first"] in u["classes"] for u, m, _ in of_drifted if u["classes"]]  # naming no class is wrong
    named = [(set(m["named"]), set(u["classes"])) for u, m, _ in of_drifted if u["classes"] and m.get("named")]
    line: dict[str, Any] = {
        "auroc": auroc(found_scores, scores),
        "found_at_5": float((found_scores > np.quantile(scores, 0.95)).mean()),
        "first": float(np.mean(first)) if first and any(m["first"] is not None for _, m, _ in of_drifted) else None,
        "named_right": float(np.mean([len(n & c) / len(n) for n, c in named])) if named else None,
        "named_found": float(np.mean([len(n & c) / len(c) for n, c in named])) if named else None,
        "drifted": len(of_drifted),
        "benign": len(of_benign),
        "found": None,
        "false_alarms": None,
    }
    if of_benign[0][1]["alarm"] is not None:
        alarms, found = (np.array([bool(m["alarm"]) for _, m, _ in side]) for side in (of_benign, of_drifted))
        draws = [draw for _, _, (_, draw) in of_drifted]
        line |= {
            "found": float(found.mean()),
            "worst": min(float(found[[d == draw for d in draws]].mean()) for draw in set(draws)),
            "false_alarms": float(alarms.mean()),
            "alarms": int(alarms.sum()),
            "limit": upper_limit(alarms, [where for _, _, where in of_benign]),
        }
    if "p" in of_benign[0][1]:
        p = np.array([1.0 if m["p"] is None else m["p"] for _, m, _ in of_benign])
        line |= {"p_02": float((p <= 0.2).mean()), "p_05": float((p <= 0.5).mean())}
    return line


def shares(rows: list[Row], method: str, group: str, kind: str | None = None) -> dict[str, float]:
    """How often a method says drift, that the recipe is outside what was calibrated, and stable."""
    found = [m for u, m, _ in judged(rows, method, [group]) if kind in (None, u["kind"])]
    outside = [bool(m["outside"]) for m in found]
    return {
        "candidates": len(found),
        "drift": float(np.mean([m["alarm"] for m in found])),
        "recipe": float(np.mean(outside)),
        "stable": float(np.mean([m["verdict"] == "stable" for m in found])),
    }


def _order(finding: dict[str, Any]) -> float:
    """What orders candidates: minus log p of the whole audit where there is one, else the method's own score."""
    if "p" not in finding:
        return float(finding["score"])
    return 0.0 if finding["p"] is None else -float(np.log10(finding["p"]))


def accuracy_blind(row: Row) -> bool:
    """Whether accuracy on current data does not show the candidate's drift."""
    found = row["methods"].get("accuracy, current set")
    return found is not None and abs(found["score"]) < BLIND


def is_kind(row: Row, kind: str, strength: int) -> bool:
    """Whether the candidate is of this kind and strength."""
    return (row["candidate"]["kind"], row["candidate"]["strength"]) == (kind, strength)
