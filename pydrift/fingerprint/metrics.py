"""How well scores tell known images from others. Inliers are the positives, as in `membership.metrics` members are."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.fingerprint.conformal import Conformal
from pydrift.stats.intervals import clopper_pearson
from pydrift.stats.roc import auc, roc


@dataclass(frozen=True)
class Separation:
    """Of inliers and outliers by one detector.

    auroc, auroc_interval  and its DeLong 95 % interval
    aupr_in, aupr_out      average precision with inliers, or outliers, as the positives; depends on their shares
    fpr_at_95_tpr          share of outliers accepted where 95 % of these inliers are
    detection              share of outliers with conformal p <= alpha, with its exact 95 % interval
    false_alarms           the same of the inliers: alpha, if they are like the held-out ones
    """

    inliers: int
    outliers: int
    auroc: float
    auroc_interval: tuple[float, float]
    aupr_in: float
    aupr_out: float
    fpr_at_95_tpr: float
    detection: float
    detection_interval: tuple[float, float]
    false_alarms: float
    alpha: float


def separation(
    inliers: NDArray[np.float64], outliers: NDArray[np.float64], conformal: Conformal, alpha: float = 0.05
) -> Separation:
    """From the scores of both, the higher the more at home. UsageError unless all are finite and there are both."""
    scores = np.concatenate([inliers, outliers]).astype(np.float64)
    inside = np.arange(len(scores)) < len(inliers)
    curve = roc(scores, inside)
    area, low, high = auc(scores, inside)
    found = int((conformal.p(outliers) <= alpha).sum())
    detected = clopper_pearson(found, len(outliers))
    accepting = int(np.flatnonzero(curve.tpr >= 0.95)[0])
    return Separation(
        inliers=len(inliers),
        outliers=len(outliers),
        auroc=area,
        auroc_interval=(low, high),
        aupr_in=average_precision(scores, inside),
        aupr_out=average_precision(-scores, ~inside),
        fpr_at_95_tpr=float(curve.fpr[accepting]),
        detection=found / len(outliers),
        detection_interval=(float(detected[0]), float(detected[1])),
        false_alarms=float((conformal.p(inliers) <= alpha).mean()),
        alpha=alpha,
    )


def average_precision(scores: NDArray[np.float64], positive: NDArray[np.bool_]) -> float:
    """Sum over thresholds of the precision times what the recall gains there; equal scores are one threshold."""
    curve = roc(scores, positive)
    true, false = curve.true_positives[1:], curve.false_positives[1:]
    return float((np.diff(curve.tpr) * true / (true + false)).sum())
