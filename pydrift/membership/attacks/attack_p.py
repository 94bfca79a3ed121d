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
    """score = 1 - F(loss), where F(loss) is the share of images whose loss is not larger.

    The population is all images that are scored. On one target, the images have the same order as by the loss
    threshold, and so the same ROC curve, except where losses are equal. What the attack adds is a threshold with the
    same meaning for every target.
    """

    title: ClassVar[str] = "Attack-P (Ye et al.)"
    needs: ClassVar[Needs] = Needs()

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> AttackP:
        return self

    def score(self, target: Statistics) -> Scores:
        log_p = target.log_p()[0, 0]
        smaller = np.searchsorted(np.sort(log_p), log_p, side="left")  # images with a larger loss
        return smaller / len(log_p)
