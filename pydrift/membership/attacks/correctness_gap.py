"""Images with the right label are called members: the least that an attacker who sees only labels can do.

The baseline of Yeom et al. (CSF 2018), called the gap attack by Choquette-Choo et al., "Label-Only Membership Inference
Attacks", ICML 2021. Its balanced accuracy is 1/2 + (training accuracy - test accuracy) / 2.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores
from pydrift.shadows.statistics import Statistics


@dataclass(frozen=True)
class CorrectnessGap:
    """score = 1 where the target's label is right, else 0."""

    title: ClassVar[str] = "correctness gap (label only)"
    needs: ClassVar[Needs] = Needs()

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        return _Fitted(y)


@dataclass(frozen=True)
class _Fitted:
    y: NDArray[np.int64]

    def score(self, target: Statistics) -> Scores:
        return (target.prediction[0, 0] == self.y).astype(np.float64)
