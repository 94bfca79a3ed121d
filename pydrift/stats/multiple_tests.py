"""Corrections for many tests: over the classes of one audit (Holm), and over a series of audits."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order of `p_values`; all in [0, 1].

    An adjusted p <= alpha rejects with a family-wise error of at most alpha, whatever the dependence between the tests.
    Source: Holm, Scandinavian Journal of Statistics 6, 1979.
    """
    adjusted = [0.0] * len(p_values)
    running = 0.0
    for rank, i in enumerate(np.argsort(p_values, kind="stable")):
        running = max(running, min(1.0, (len(p_values) - rank) * p_values[i]))
        adjusted[i] = running
    return adjusted


def alpha_of_release(alpha: float, release: int) -> float:
    """The level of one audit in a series whose total error stays at most `alpha`, however long the series gets.

    release  the number n of the audit, from 1

    The level is alpha * 6 / (pi^2 n^2), which sums to alpha over all n. This is a Bonferroni correction, so it is valid
    for any dependence between the audits.
    """
    return alpha * 6 / (np.pi * release) ** 2
