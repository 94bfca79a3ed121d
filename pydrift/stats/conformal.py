"""p of a score among the scores of models that were measured alike. numpy and scipy only."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

RANKED = 3  # ranks from the top below which a rank says too little


@dataclass(frozen=True)
class ConformalNull:
    """The scores of K benign models, one per model, float64 [K], K >= 2.

    The p of a score is its rank, (1 + number of benign scores at or above it) / (K + 1). It is exact where the scores
    can change places (Vovk, Gammerman and Shafer, "Algorithmic Learning in a Random World", 2005), and cannot be below
    1 / (K + 1). So below RANKED / (K + 1) it is the upper tail of a Student t of K - 1 degrees of freedom, that of a
    further value of a normal sample: each benign model counts once, and none decides alone.
    """

    scores: NDArray[np.float64]

    def p_value(self, score: float) -> float:
        """P(the score of a benign model is this high or higher), in (0, 1]. It never rises with the score."""
        count = len(self.scores)
        rank = (1 + int((self.scores >= score).sum())) / (count + 1)
        if rank >= RANKED / (count + 1):
            return rank
        with np.errstate(over="ignore"):  # of scores without any spread
            tail = float(stats.t.sf((score - self.scores.mean()) / self._spread, count - 1))
        return min(max(tail, float(np.finfo(float).tiny)), RANKED / (count + 1))

    def smallest_score(self, alpha: float) -> float:
        """The least score beyond which p is at most alpha, in (0, 1)."""
        count = len(self.scores)
        descending = -np.sort(-self.scores)
        above = int(np.floor(alpha * (count + 1) + 1e-9)) - 1  # benign scores that may lie above
        if above >= RANKED - 1:
            return float(descending[above]) if above < count else float(descending[-1])
        tail = self.scores.mean() + float(stats.t.isf(alpha, count - 1)) * self._spread
        return float(max(tail, descending[RANKED - 2]))

    @property
    def _spread(self) -> float:
        """The deviation of a further score from the mean of these."""
        return float(max(self.scores.std(ddof=1), np.finfo(float).tiny) * np.sqrt(1 + 1 / len(self.scores)))
