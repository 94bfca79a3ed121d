"""How well scores separate inliers from outliers. The inliers are the positives."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.fingerprint.conformal import Conformal
from pydrift.stats.intervals import clopper_pearson
from pydrift.stats.roc import auc, roc


@dataclass(frozen=True)
class Separation:
    """How well one detector separates inliers from outliers. All rates are in [0, 1].

    inliers, outliers      how many there are
    auroc, auroc_interval  area under the ROC curve and its DeLong 95 % interval
    aupr_in, aupr_out      average precision with inliers, or outliers, as the positives; it depends on their numbers
    fpr_at_95_tpr          share of outliers that are accepted if 95 % of the inliers are
    detection              share of outliers with conformal p <= alpha
    detection_interval     its exact (Clopper-Pearson) 95 % interval
    false_alarms           share of inliers with p <= alpha; it is about alpha if they are like the held-out images
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
    """From the scores of both kinds, float64 [n] and [m]; inliers should score higher.

    UsageError: a score is not finite, or a kind has no image.
    """
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
    """The sum over thresholds of precision times gain in recall; equal scores share a threshold. In [0, 1]."""
    curve = roc(scores, positive)
    true, false = curve.true_positives[1:], curve.false_positives[1:]
    return float((np.diff(curve.tpr) * true / (true + false)).sum())
