"""Is the loss low for this very image? Attack-R compares it with the losses of models that never saw the image.

Ye, Maddi, Murakonda, Bindschaedler, Shokri: "Enhanced Membership Inference Attacks against Machine Learning Models",
CCS 2022.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores, check_shadows
from pydrift.shadows.statistics import Statistics

LARGEST_LOSS = 1000.0


@dataclass(frozen=True)
class AttackR:
    """score = -F(loss) in [-1, 0], where F is the distribution function of the OUT shadows' losses on the image.

    1 - F would give small losses the same score by rounding. F is linear between its points: the sorted losses l_1..l_n
    have the values i / (n + 1), a loss of 0 has 0, and LARGEST_LOSS has 1. Where losses are equal, F takes the highest
    of their values. Larger losses count as LARGEST_LOSS.
    """

    title: ClassVar[str] = "Attack-R (Ye et al.)"
    needs: ClassVar[Needs] = Needs(shadows_out=1)

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        check_shadows(self, shadow, member)
        losses = np.where(member, np.inf, np.minimum(-shadow.log_p()[:, 0], LARGEST_LOSS))
        return _Fitted(np.sort(losses, axis=0), (~member).sum(axis=0))


@dataclass(frozen=True)
class _Fitted:
    losses: NDArray[np.float64]  # [K, N] ascending, infinite from `outside` on
    outside: NDArray[np.int64]  # [N]

    def score(self, target: Statistics) -> Scores:
        loss = np.minimum(-target.log_p()[0, 0], LARGEST_LOSS)
        images = np.arange(len(loss))
        below = (self.losses <= loss).sum(axis=0)  # of l_1..l_n
        floor = np.where(below == 0, 0.0, self.losses[below - 1, images])
        padded = np.vstack([self.losses, np.full(len(loss), np.inf)])
        ceiling = np.where(below == self.outside, LARGEST_LOSS, padded[below, images])
        part = np.divide(loss - floor, ceiling - floor, out=np.zeros_like(loss), where=ceiling > floor)
        part[(loss >= LARGEST_LOSS) & (below == self.outside)] = 1.0
        return -(below + part) / (self.outside + 1)
