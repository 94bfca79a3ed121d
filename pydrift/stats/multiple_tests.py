"""Levels for many tests: over the classes of one audit (Holm), and over the audits of a series."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values (Holm, Scandinavian Journal of Statistics 6, 1979)."""
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def alpha_of_release(alpha: float, release: int) -> float:
    """The level of the n-th audit of a series that is to stay below `alpha` as a whole, however long it gets.

    alpha * 6 / (pi^2 n^2), which sums to alpha over all n: Bonferroni, so valid for any dependence between the
    audits. `release` counts from 1.
    """
    return alpha * 6 / (np.pi * release) ** 2
