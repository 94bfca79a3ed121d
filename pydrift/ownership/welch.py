"""Welch's test of whether private images score higher than public ones. Numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

Array = NDArray[np.float64]

_LARGEST_T = 1e6


@dataclass(frozen=True)
class Welch:
    """The one-sided Welch test of whether `private` has the higher mean.

    effect     the difference of the means
    low, high  its 95 % interval
    t          the test statistic
    p          P(T >= t) if the means are equal
    """

    effect: float
    low: float
    high: float
    t: float
    p: float


def welch(private: Array, public: Array) -> Welch:
    """The test for scores [n] and [m], at least two of each. Without any spread p is 0, 1, or 0.5 for equal means."""
    effect = float(private.mean() - public.mean())
    parts = private.var(ddof=1) / len(private), public.var(ddof=1) / len(public)
    error = float(np.sqrt(sum(parts)))
    if error == 0:
        t = float(np.sign(effect)) * np.inf if effect else 0.0
        return Welch(effect, effect, effect, t, 0.5 - np.sign(effect) / 2)
    freedom = sum(parts) ** 2 / (parts[0] ** 2 / (len(private) - 1) + parts[1] ** 2 / (len(public) - 1))
    reach = float(stats.t.ppf(0.975, freedom)) * error
    return Welch(effect, effect - reach, effect + reach, effect / error, float(stats.t.sf(effect / error, freedom)))


def welch_t(scores: Array, num_private: int) -> Array:
    """Welch's t, [...] of scores [..., N]: the first `num_private` scores against the others.

    Without any spread it is 1e6, -1e6 or 0.
    """
    groups = scores[..., :num_private], scores[..., num_private:]
    effect = groups[0].mean(axis=-1) - groups[1].mean(axis=-1)
    error = np.sqrt(sum(group.var(axis=-1, ddof=1) / group.shape[-1] for group in groups))
    result: Array = effect / np.maximum(error, np.maximum(np.abs(effect) / _LARGEST_T, np.finfo(float).tiny))
    return result


def harmonic_mean_p(private: Array, public: Array, *, rows: int = 10, repeats: int = 100, seed: int = 0) -> float:
    """The figure that the paper's code reports: the harmonic mean of p over `repeats` Welch tests on drawn rows.

    private, public  scores [n] and [m]
    rows             how many scores of each are drawn for a test, without replacement

    Use it to compare with published tables only. The draws overlap, and a harmonic mean of p-values is not a p-value.
    """
    random = np.random.Generator(np.random.Philox(seed))
    rows = min(rows, len(private), len(public))
    p = [
        welch(private[random.permutation(len(private))[:rows]], public[random.permutation(len(public))[:rows]]).p
        for _ in range(repeats)
    ]
    return float(stats.hmean(np.maximum(p, np.finfo(float).tiny)))
