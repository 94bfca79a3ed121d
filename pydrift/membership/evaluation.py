"""From the scores of one attack to its figures in the report."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.epsilon import epsilon_lower_bound
from pydrift.stats.roc import Roc, TprAtFpr, auc, balanced_accuracy, balanced_accuracy_interval, roc, tpr_at_fpr

FPRS = (0.001, 0.01)
CLASS_FPR = 0.01
_FIGURE_POINTS = 200


@dataclass(frozen=True)
class ClassResult:
    """How well one attack does on the images of one class; None if the class has no members or no non-members."""

    index: int
    members: int
    non_members: int
    auc: float | None
    tpr: float | None  # at CLASS_FPR among the class's own non-members


@dataclass(frozen=True)
class AttackResult:
    """How well one attack does on all images. Intervals and bounds are (low, high)."""

    name: str
    title: str
    auc: float
    auc_interval: tuple[float, float]
    balanced_accuracy: float
    balanced_accuracy_interval: tuple[float, float]
    tpr_at_fpr: tuple[TprAtFpr, ...]  # at FPRS
    epsilon: float  # lower bound
    epsilon_alpha: float  # the bound has confidence 1 - epsilon_alpha; it is this attack's share of the audit's alpha
    roc: tuple[tuple[float, float], ...]  # (FPR, TPR) from (0, 0) to (1, 1), thinned for the figure
    classes: tuple[ClassResult, ...]
    constant: bool  # all scores are equal, so the attack shows nothing


def evaluate(
    name: str,
    title: str,
    scores: NDArray[np.float64],
    member: NDArray[np.bool_],
    y: NDArray[np.int64],
    num_classes: int,
    *,
    alpha: float = 0.05,
    epsilon_alpha: float = 0.05,
    delta: float = 0.0,
    seed: int = 0,
) -> AttackResult:
    """All figures of one attack.

    scores  float64 [N]; member bool [N]; y int64 [N] in 0..num_classes - 1
    alpha   intervals have confidence 1 - alpha, and the epsilon bound has 1 - epsilon_alpha
    seed    of the random halves of the epsilon bound
    """
    curve = roc(scores, member)
    area, low, high = auc(scores, member, alpha)
    return AttackResult(
        name=name,
        title=title,
        auc=area,
        auc_interval=(low, high),
        balanced_accuracy=balanced_accuracy(curve),
        balanced_accuracy_interval=balanced_accuracy_interval(curve, alpha),
        tpr_at_fpr=tuple(tpr_at_fpr(curve, fpr, alpha) for fpr in FPRS),
        epsilon=epsilon_lower_bound(scores, member, epsilon_alpha, delta, seed),
        epsilon_alpha=epsilon_alpha,
        roc=_thin(curve),
        classes=tuple(_class_result(c, scores[y == c], member[y == c]) for c in range(num_classes)),
        constant=bool((scores == scores[0]).all()),
    )


def strongest(results: Sequence[AttackResult]) -> AttackResult:
    """The attack with the highest TPR at the highest of FPRS; the higher AUC decides between equals."""
    return max(results, key=lambda result: (result.tpr_at_fpr[-1].tpr, result.auc))


def _class_result(index: int, scores: NDArray[np.float64], member: NDArray[np.bool_]) -> ClassResult:
    inside = int(member.sum())
    outside = len(member) - inside
    if not inside or not outside:
        return ClassResult(index, inside, outside, None, None)
    rate = tpr_at_fpr(roc(scores, member), CLASS_FPR)
    return ClassResult(index, inside, outside, auc(scores, member)[0], rate.tpr)


def _thin(curve: Roc) -> tuple[tuple[float, float], ...]:
    """About _FIGURE_POINTS points of the curve at most, spread evenly over log FPR; both ends are kept.

    Only the highest point of each FPR is kept, since the figure is drawn in steps.
    """
    fpr, tpr = curve.fpr, curve.tpr
    highest = np.append(fpr[1:] != fpr[:-1], True)
    fpr, tpr = fpr[highest], tpr[highest]
    wanted = np.geomspace(1 / curve.non_members, 1, _FIGURE_POINTS)
    kept = np.unique(np.concatenate([[0], np.searchsorted(fpr, wanted, side="right") - 1]))
    points = [(0.0, 0.0)] if tpr[0] > 0 else []
    return tuple(points + [(float(fpr[i]), float(tpr[i])) for i in kept])
