"""Confidence intervals of a proportion."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
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
