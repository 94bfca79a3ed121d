"""Is the loss low for this very model? Attack-P compares it with the model's losses on the population.

Ye, Maddi, Murakonda, Bindschaedler, Shokri: "Enhanced Membership Inference Attacks against Machine Learning Models",
CCS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores
from pydrift.shadows.statistics import Statistics


@dataclass(frozen=True)
class AttackP:
    """score = 1 - F(loss), F being the share of the population whose loss is at most this one.

    The population is all the images that are scored. On one target the order of the images is that of the loss
    threshold, and so is the ROC curve, but for images of equal loss; what the attack adds is a threshold that means
    the same for every target.
    """

    title: ClassVar[str] = "Attack-P (Ye et al.)"
    needs: ClassVar[Needs] = Needs()

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> AttackP:
        return self

    def score(self, target: Statistics) -> Scores:
        log_p = target.log_p()[0, 0]
        smaller = np.searchsorted(np.sort(log_p), log_p, side="left")  # images of a larger loss
        return smaller / len(log_p)
