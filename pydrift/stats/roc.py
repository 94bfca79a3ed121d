"""How well scores separate members from non-members, with confidence intervals.

Everywhere: scores float64 [N], higher means more likely a member; member bool [N]. Images with equal scores are never
separated.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.stats import norm, rankdata

from pydrift.core.errors import UsageError
from pydrift.stats.intervals import clopper_pearson


@dataclass(frozen=True)
class Roc:
    """All operating points "member if score >= threshold", from no image to all of them.

    threshold                        float64 [T + 1], descending: +inf, then the T distinct scores
    true_positives, false_positives  int64 [T + 1]: members and non-members at or above the threshold
    """

    threshold: NDArray[np.float64]
    true_positives: NDArray[np.int64]
    false_positives: NDArray[np.int64]

    @property
    def members(self) -> int:
        return int(self.true_positives[-1])

    @property
    def non_members(self) -> int:
        return int(self.false_positives[-1])

    @property
    def tpr(self) -> NDArray[np.float64]:
        return self.true_positives / self.members

    @property
    def fpr(self) -> NDArray[np.float64]:
        return self.false_positives / self.non_members

    def at(self, fpr: float) -> int:
        """The index of the point of the highest TPR whose FPR is at most `fpr`."""
        return int(np.searchsorted(self.fpr, fpr, side="right")) - 1


def roc(scores: NDArray[np.float64], member: NDArray[np.bool_]) -> Roc:
    """The ROC curve. UsageError: wrong shapes, a score that is not finite, no members, or no non-members."""
    if scores.shape != member.shape or scores.ndim != 1 or member.dtype != np.bool_:
        raise UsageError(
            f"scores [N] and member bool [N], got {list(scores.shape)}, {member.dtype} {list(member.shape)}"
        )
    if not np.isfinite(scores).all():
        raise UsageError(f"the score of image {np.flatnonzero(~np.isfinite(scores))[0]} is not finite")
    if member.all() or not member.any():
        raise UsageError("there must be members and non-members among the scored images")
    order = np.argsort(-scores, kind="stable")
    ordered, positive = scores[order], member[order]
    last = np.append(ordered[1:] != ordered[:-1], True)  # whether it is the last image with its score
    true, false = np.cumsum(positive)[last], np.cumsum(~positive)[last]
    return Roc(np.append(np.inf, ordered[last]), np.append(0, true), np.append(0, false))


def auc(scores: NDArray[np.float64], member: NDArray[np.bool_], alpha: float = 0.05) -> tuple[float, float, float]:
    """Area under the ROC curve, and the ends of its 1 - alpha interval.

    The area is the probability that a member scores higher than a non-member; a tie counts half. The interval is a
    normal approximation (DeLong, DeLong, Clarke-Pearson 1988). With fewer than two images of a kind it is [0, 1].

    DeLong's variance is 0 if the sample separates perfectly, or if all scores are equal. A small sample is no proof of
    that. Then the interval is the exact (Clopper-Pearson) one of a proportion. Its number of trials is the size of the
    smaller kind: so many pairs share no image.
    """
    inside, outside = scores[member], scores[~member]
    ranks = rankdata(np.concatenate([inside, outside]))
    above = (ranks[: len(inside)] - rankdata(inside)) / len(outside)  # share of non-members below each member
    below = 1 - (ranks[len(inside) :] - rankdata(outside)) / len(inside)  # share of members above each non-member
    area = float(above.mean())
    if min(len(inside), len(outside)) < 2:
        return area, 0.0, 1.0
    if np.ptp(above) == 0 and np.ptp(below) == 0:
        trials = min(len(inside), len(outside))
        low, high = clopper_pearson(area * trials, trials, alpha)
        return area, float(low), float(high)
    half = norm.isf(alpha / 2) * np.sqrt(above.var(ddof=1) / len(inside) + below.var(ddof=1) / len(outside))
    return area, max(0.0, area - float(half)), min(1.0, area + float(half))


def balanced_accuracy(curve: Roc) -> float:
    """(TPR + 1 - FPR) / 2 at the best threshold, in [0.5, 1]. The choice on these scores is a little optimistic."""
    return float((1 + (curve.tpr - curve.fpr).max()) / 2)


def balanced_accuracy_interval(curve: Roc, alpha: float = 0.05) -> tuple[float, float]:
    """The ends of the 1 - alpha interval of the balanced accuracy at its best threshold, as if it were fixed.

    It combines the exact (Clopper-Pearson) intervals of TPR and FPR, each at alpha / 2, so that both hold together.
    """
    best = int((curve.tpr - curve.fpr).argmax())
    tpr = clopper_pearson(int(curve.true_positives[best]), curve.members, alpha / 2)
    fpr = clopper_pearson(int(curve.false_positives[best]), curve.non_members, alpha / 2)
    return float(1 + tpr[0] - fpr[1]) / 2, float(1 + tpr[1] - fpr[0]) / 2


@dataclass(frozen=True)
class TprAtFpr:
    """The share of members found while at most `fpr` of the non-members are falsely accused.

    low, high  the exact (Clopper-Pearson) interval of the TPR at that threshold. As usual, the threshold comes from
               these non-members, and its own uncertainty is not in the interval
    """

    fpr: float
    tpr: float
    low: float
    high: float
    true_positives: int
    false_positives: int


def tpr_at_fpr(curve: Roc, fpr: float, alpha: float = 0.05) -> TprAtFpr:
    """The best TPR with a false-positive rate of at most `fpr`, with its 1 - alpha interval."""
    point = curve.at(fpr)
    true, false = int(curve.true_positives[point]), int(curve.false_positives[point])
    low, high = clopper_pearson(true, curve.members, alpha)
    return TprAtFpr(fpr, true / curve.members, float(low), float(high), true, false)


def false_positive_rate_of(scores: NDArray[np.float64], member: NDArray[np.bool_]) -> NDArray[np.float64]:
    """float64 [N]: for each image the share of non-members with at least its score. A small share means exposed."""
    outside = np.sort(scores[~member])
    return 1 - np.searchsorted(outside, scores, side="left") / len(outside)
