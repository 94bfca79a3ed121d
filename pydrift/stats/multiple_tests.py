"""The correction for many audits of a series."""

from __future__ import annotations

import numpy as np


def alpha_of_release(alpha: float, release: int) -> float:
    """The level of one audit in a series whose total error stays at most `alpha`, however long the series gets.

    release  the number n of the audit, from 1

    The level is alpha * 6 / (pi^2 n^2), which sums to alpha over all n. This is a Bonferroni correction, so it is valid
    for any dependence between the audits.
    """
    return alpha * 6 / (np.pi * release) ** 2
