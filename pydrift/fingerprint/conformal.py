"""Conformal p-values: from a detector's scores to probabilities, without any assumption about the detector.

Let k of n held-out images of the same kind score no higher than x. Then p = (k + 1) / (n + 1). If x is exchangeable
with them, p is at most alpha with probability at most alpha.

Sources: Vovk, Gammerman, Shafer, "Algorithmic Learning in a Random World", 2005; for detectors: Bates, Candes, Lei,
Romano, Sesia, "Testing for Outliers with Conformal p-values", 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError


@dataclass(frozen=True, eq=False)
class Conformal:
    """Turns scores into p-values.

    reference  float64 [n], ascending: the scores of the held-out images; a higher score is more like the training data
    """

    reference: NDArray[np.float64]

    @classmethod
    def of(cls, scores: NDArray[np.float64]) -> Conformal:
        """From the scores [n] of held-out images in any order. UsageError: no scores, or one that is not finite."""
        if scores.ndim != 1 or len(scores) == 0 or not np.isfinite(scores).all():
            raise UsageError("held-out scores must be finite [n], n >= 1")
        return cls(np.sort(scores.astype(np.float64)))

    def p(self, scores: NDArray[np.float64]) -> NDArray[np.float64]:
        """p float64 [N] in (0, 1] of scores [N].

        A tie counts as "no higher", so p is never too small. NaN has the least p.
        """
        below = np.searchsorted(self.reference, np.nan_to_num(scores, nan=-np.inf), side="right")
        return (below + 1) / (len(self.reference) + 1)

    def check_alpha(self, alpha: float) -> None:
        """UsageError: alpha is not in (0, 1), or with so few held-out images no p is as small as alpha."""
        if not 0 < alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, got {alpha:g}")
        if alpha * (len(self.reference) + 1) < 1:
            needed = int(np.ceil(1 / alpha)) - 1
            raise UsageError(
                f"alpha {alpha:g} needs {needed} held-out images, the fingerprint has {len(self.reference)}"
            )
