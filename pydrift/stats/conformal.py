"""p of a score among the scores of models that were measured alike. numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

RANKED = 3  # ranks from the top below which a rank says too little
_TAIL = 1 / 3  # share of the benign scores, the largest ones, that the tail is fitted to


@dataclass(frozen=True)
class ConformalNull:
    """The scores of K benign models, one per model, float64 [K], K >= 2.

    The p of a score is its rank, (1 + number of benign scores at or above it) / (K + 1). It is exact where the scores
    can change places (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005), and cannot be below
    1 / (K + 1). So below RANKED / (K + 1) it is a tail. The n largest scores, a third of them, exceed the next one, u,
    by b on the mean. If excesses are exponential (Pickands, "Statistical Inference Using Extreme Order Statistics",
    Annals of Statistics 3, 1975), a further value is above u + x with the probability
    (n + 1) / (K + 1) * (1 + x / (n b)) ** -n. Each benign model counts once, and none decides alone.
    """

    scores: NDArray[np.float64]

    def p_value(self, score: float) -> float:
        """P(the score of a benign model is this high or higher), in (0, 1]. It never rises with the score."""
        count = len(self.scores)
        rank = (1 + int((self.scores >= score).sum())) / (count + 1)
        if rank >= RANKED / (count + 1):
            return rank
        above, start, mean = self._excesses
        with np.errstate(over="ignore", divide="ignore"):  # of scores without any spread
            tail = (above + 1) / (count + 1) * (1 + np.maximum(score - start, 0) / (above * mean)) ** -above
        return float(min(max(tail, np.finfo(float).tiny), RANKED / (count + 1)))

    def smallest_score(self, alpha: float) -> float:
        """The least score beyond which p is at most alpha, in (0, 1)."""
        count = len(self.scores)
        descending = -np.sort(-self.scores)
        above = int(np.floor(alpha * (count + 1) + 1e-9)) - 1  # benign scores that may lie above
        if above >= RANKED - 1:
            return float(descending[above]) if above < count else float(descending[-1])
        exceeding, start, mean = self._excesses
        tail = start + exceeding * mean * (((exceeding + 1) / (count + 1) / alpha) ** (1 / exceeding) - 1)
        return float(max(tail, descending[RANKED - 2]))

    @property
    def _excesses(self) -> tuple[int, float, float]:
        """How many scores the tail is fitted to, where it begins, and the mean by which they exceed that."""
        count = len(self.scores)
        above = min(max(RANKED, round(_TAIL * count)), count - 1)
        descending = -np.sort(-self.scores)
        mean = (descending[:above] - descending[above]).mean()
        return above, float(descending[above]), float(max(mean, np.finfo(float).tiny))
