"""p and power of a drift score, from a tail that is fitted to the scores of benign shadows. numpy and scipy only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import optimize, special, stats


@dataclass(frozen=True)
class Tail:
    """The upper tail of the drift scores of benign updates: a Student t of prediction residuals."""

    degrees: float
    scale: float

    def p_value(self, score: float, shadows: int) -> float:
        """P(the score of a benign update is this high or higher). Never 0."""
        residual = score / np.sqrt(1 + 1 / shadows)
        return max(float(stats.t.sf(residual / self.scale, self.degrees)), float(np.finfo(float).tiny))

    def smallest_score(self, level: float, shadows: int) -> float:
        """The score whose p is `level`."""
        return float(stats.t.isf(level, self.degrees) * self.scale * np.sqrt(1 + 1 / shadows))

    def power(self, size: float, level: float, shadows: int) -> float:
        """P(a drift has a p of `level` or less), of a drift that adds `size` to the score of a benign update."""
        beyond = size - self.smallest_score(level, shadows)
        return float(stats.t.cdf(beyond / self.scale / np.sqrt(1 + 1 / shadows), self.degrees))


def fit_tail(null: Sequence[NDArray[np.float64]]) -> Tail:
    """Fits a Student t to the shadows' own scores by maximum likelihood, all classes pooled.

    null  one array per class with the scores of its K shadows, each measured against the K - 1 others

    Degrees of freedom are kept in [1, K - 1] and the scale in [1, 10]. So pooling may only make the test more careful
    than normal theory, never less. The order of classes and shadows does not matter.
    """
    # A score is measured in deviations of single scores; as a prediction from K - 1 of them it has a larger error.
    # Largest first: an order of their own makes the sums below independent of the order of classes and shadows.
    residuals = -np.sort(np.concatenate([-scores / np.sqrt(1 + 1 / (len(scores) - 1)) for scores in null]))
    most = max(len(scores) for scores in null) - 1

    def cost(parameters: NDArray[np.float64]) -> tuple[float, list[float]]:
        """Minus the log-likelihood of log degrees and log scale, and its gradient.

        A gradient by differences would be too coarse: the order of the classes would be seen in p.
        """
        degrees, scale = np.exp(parameters)
        square = (residuals / scale) ** 2
        pull = (degrees + 1) * square / (degrees + square)
        of_degrees = special.digamma((degrees + 1) / 2) - special.digamma(degrees / 2) - 1 / degrees
        slope = (np.log1p(square / degrees) - pull / degrees - of_degrees).sum() * degrees / 2
        likelihood = stats.t.logpdf(residuals / scale, degrees).sum() - len(residuals) * np.log(scale)
        return -float(likelihood), [float(slope), float((1 - pull).sum())]

    bounds = [(0.0, np.log(most)), (0.0, np.log(10.0))]
    tight = {"ftol": 1e-15, "gtol": 1e-9}
    # Not Nelder-Mead: its simplex collapses on the bounds, where the best parameters often lie.
    fitted = optimize.minimize(cost, [np.log(most) / 2, 0.1], method="L-BFGS-B", jac=True, bounds=bounds, options=tight)
    degrees, scale = np.exp(fitted.x)
    return Tail(float(degrees), float(scale))
