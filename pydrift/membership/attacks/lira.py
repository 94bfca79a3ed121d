"""How much more likely is this answer if the image was a member? The likelihood-ratio attack (LiRA).

Carlini, Chien, Nasr, Song, Terzis, Tramer: "Membership Inference Attacks From First Principles", S&P 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.membership.attack import Needs, Scores, check_shadows
from pydrift.shadows.statistics import Statistics

MIN_STD, RESOLUTION = 1e-6, 2.0**-23
"""The standard deviation of a margin is at least max(MIN_STD, RESOLUTION * |mean|), else equal answers would give
infinite ratios. RESOLUTION is that of float32: a smaller spread of the shadows has no meaning. MIN_STD is for means
near 0, whose margins have the rounding errors of logits of order 1. No theory says how small it must be."""


@dataclass(frozen=True)
class Lira:
    """Fits one Gaussian to the logit margins of the IN shadows on an image, and one to those of the OUT shadows.

    online   score = log N(margin; mean_in, var_in) - log N(margin; mean_out, var_out).
             Offline there are no IN shadows, and score = (margin - mean_out) / std_out. The paper's one-sided test
             1 - Pr[Z > margin] is the normal distribution function of that score, so the order is the same, but the
             score does not saturate. The test must be one-sided: a margin far *below* those of the OUT shadows does not
             speak for a member.
    fixed    one variance for all images instead of one per image, which is better with fewer than about 64 shadows.
             It is the variance *within* images, each centred on its own mean. Around a common mean it would measure
             the spread of easy and hard images.

    Variances are unbiased (n - 1) and not below the resolution of the margin (see MIN_STD). Each query has its own
    means and variances. Queries count as independent, and the score is their mean.
    """

    online: bool = True
    fixed: bool = False

    @property
    def title(self) -> str:
        variance = "one variance" if self.fixed else "variance per image"
        return f"LiRA {'online' if self.online else 'offline'}, {variance} (Carlini et al.)"

    @property
    def needs(self) -> Needs:
        return Needs(shadows_in=2 if self.online else 0, shadows_out=2)

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        check_shadows(self, shadow, member)
        inside = _fit_gaussian(shadow.margin, member, self.fixed) if self.online else None
        return _Fitted(inside, _fit_gaussian(shadow.margin, ~member, self.fixed))


@dataclass(frozen=True)
class _Gaussian:
    mean: NDArray[np.float64]  # [Q, N]
    std: NDArray[np.float64]  # [Q, N]

    def standardise(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        return (margin - self.mean) / self.std

    def log_density(self, margin: NDArray[np.float64]) -> NDArray[np.float64]:
        """Without the constant -log(2 pi) / 2."""
        return -0.5 * self.standardise(margin) ** 2 - np.log(self.std)


@dataclass(frozen=True)
class _Fitted:
    inside: _Gaussian | None
    outside: _Gaussian

    def score(self, target: Statistics) -> Scores:
        margin = target.margin[0].astype(np.float64)
        if self.inside is None:
            return self.outside.standardise(margin).mean(axis=0)
        return (self.inside.log_density(margin) - self.outside.log_density(margin)).mean(axis=0)


def _fit_gaussian(margin: NDArray[np.float32], chosen: NDArray[np.bool_], fixed: bool) -> _Gaussian:
    """The Gaussian of each query and image, of the margins [K, Q, N] of the chosen models, bool [K, N]."""
    weight = chosen[:, None].astype(np.float64)
    count = weight.sum(axis=0)
    mean = (weight * margin).sum(axis=0) / count
    squares = (weight * (margin - mean) ** 2).sum(axis=0)
    if fixed:
        variance = squares.sum(axis=1, keepdims=True) / (count - 1).sum(axis=1, keepdims=True)
    else:
        variance = squares / (count - 1)
    return _Gaussian(mean, np.maximum(np.sqrt(variance), np.maximum(MIN_STD, RESOLUTION * np.abs(mean))))
