"""Absolute checks of a candidate: does it recognise the classes at all?

The drift score is relative: it asks whether the responses move together as those of benign shadows do. It forgives
what lies along the directions in which shadows vary, however far. A broken network that answers the same to everything
can lie there. So a class that the candidate does not recognise is never stable, whatever its drift score. numpy only.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

CONSENSUS, OWN = "the gray data that the shadows agree on", "its own gray data"

LEAST_SHARE = 0.5  # of what the least sure shadow has above chance


@dataclass(frozen=True)
class Recognised:
    """Mean confidences p(c | x) in gray data of each class c.

    shadows    float64 [K, classes] in [0, 1]
    candidate  float64 [classes] in [0, 1]
    """

    shadows: NDArray[np.float64]
    candidate: NDArray[np.float64]


def find_unrecognised(recognition: Mapping[str, Recognised]) -> dict[int, str]:
    """The classes that the candidate does not recognise, each with the reason in words.

    A confidence counts by what it has above chance, 1 / classes: a network that answers the same to everything has
    nothing. The candidate must have at least LEAST_SHARE of what the least sure shadow has. Confidences that are not
    finite are not recognised.
    """
    reasons: dict[int, str] = {}
    for what, confidence in recognition.items():
        chance = 1 / len(confidence.candidate)
        least = confidence.shadows.min(axis=0)
        enough = confidence.candidate - chance >= LEAST_SHARE * (least - chance)
        # Where a shadow itself is no better than chance, the candidate must still be better than that.
        enough &= (confidence.candidate > chance) | (least <= chance)
        for c in np.flatnonzero(~enough):
            reasons.setdefault(
                int(c),
                f"the candidate does not recognise {what}: its mean confidence is {confidence.candidate[c]:.2f}, "
                f"that of the least sure shadow {least[c]:.2f}",
            )
    return reasons
