"""Members have a low loss: the attack without shadows that every other attack must beat.

Yeom, Giacomelli, Fredrikson, Jha: "Privacy Risk in Machine Learning: Analyzing the Connection to Overfitting",
CSF 2018.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores
from pydrift.shadows.statistics import Statistics


@dataclass(frozen=True)
class LossThreshold:
    """score = log p_y = -loss. The paper's threshold is the mean training loss; the score needs no threshold."""

    title: ClassVar[str] = "loss threshold (Yeom et al.)"
    needs: ClassVar[Needs] = Needs()

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> LossThreshold:
        return self

    def score(self, target: Statistics) -> Scores:
        return target.log_p()[0, 0]
