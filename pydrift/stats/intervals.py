"""Confidence intervals: of a proportion, and of a score measured in null deviations."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy import stats
from scipy.stats import beta


def clopper_pearson(
    successes: ArrayLike, trials: int, alpha: float = 0.05
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The exact two-sided 1 - alpha interval of a binomial proportion. Each end errs with at most alpha / 2.

    successes  integers [...] in 0..trials

    Returns the lower and the upper ends, float64 [...] in [0, 1]: those of scipy's `binomtest(k, n).proportion_ci`, but
    for many counts at once. Source: Clopper, Pearson, Biometrika 26, 1934.
    """
    k = np.asarray(successes, np.float64)
    with np.errstate(invalid="ignore"):
        low = np.where(k == 0, 0.0, beta.ppf(alpha / 2, k, trials - k + 1))
        high = np.where(k == trials, 1.0, beta.isf(alpha / 2, k + 1, trials - k))
    return low, high


def score_interval(score: float, shadows: int, error: float = 0.0, level: float = 0.95) -> tuple[float, float]:
    """The confidence interval of a score that is measured in the standard deviations of `shadows` null values.

    Its variance is that of a standardised difference in large samples, 1/K + d^2 / (2 (K - 1)) (Hedges and Olkin 1985),
    plus the square of the measurement's own standard `error` (>= 0). The quantile is a Student t's, since K is small.
    """
    variance = 1 / shadows + score**2 / (2 * (shadows - 1)) + error**2
    half = stats.t.isf((1 - level) / 2, shadows - 1) * np.sqrt(variance)
    return float(score - half), float(score + half)
