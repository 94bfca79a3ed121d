"""Does the image gain more probability from this model than other images do? A strong attack with few shadows.

Zarifzadeh, Liu, Shokri: "Low-Cost High-Power Membership Inference Attacks", ICML 2024.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.special import logsumexp

from pydrift.core.errors import UsageError
from pydrift.membership.attack import Needs, Scores, check_shadows
from pydrift.shadows.statistics import Statistics


@dataclass(frozen=True)
class Rmia:
    """score = Pr_z[LR(x, z) > gamma], LR(x, z) = (p(x | target) / p(x)) / (p(z | target) / p(z)).

    online  p(x) is the mean of p_y over all shadows. Offline it is the mean over the OUT shadows, corrected for what
            training on x would add: ((1 + a) p_out + (1 - a)) / 2
    gamma   the ratio by which x must beat z, >= 1
    a       in [0, 1], offline only: 1 for models that hardly memorise their members, lower for others

    z runs over all images that are scored. Ratios are kept as logarithms, so a p of 0 in float32 does no harm. The z
    that x beats are counted in the sorted ratios, without an N x N matrix. With several queries, x beats z if most
    queries of x do (z is always taken by its first query). So one order statistic of the ratios of x is enough.
    p is the plain softmax, not the paper's Taylor softmax, and shadows are averaged without trimming.
    """

    online: bool = True
    gamma: float = 2.0
    a: float = 0.3

    def __post_init__(self) -> None:
        if not (self.gamma >= 1 and 0 <= self.a <= 1):
            raise UsageError(f"RMIA: gamma must be >= 1 and a in [0, 1], got {self.gamma:g} and {self.a:g}")

    @property
    def title(self) -> str:
        return f"RMIA {'online' if self.online else 'offline'} (Zarifzadeh et al.)"

    @property
    def needs(self) -> Needs:
        return Needs(shadows_in=1 if self.online else 0, shadows_out=1)

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> _Fitted:
        check_shadows(self, shadow, member)
        seen = np.ones_like(member) if self.online else ~member
        weight = seen[:, None] / seen.sum(axis=0)
        log_p = shadow.log_p()
        mean = logsumexp(log_p, axis=0, b=np.broadcast_to(weight, log_p.shape))
        if not self.online:
            with np.errstate(divide="ignore"):  # 1 - a may be 0
                mean = np.logaddexp(np.log1p(self.a) + mean, np.log1p(-self.a)) - np.log(2)
        return _Fitted(mean, self.gamma)


@dataclass(frozen=True)
class _Fitted:
    log_p: NDArray[np.float64]  # [Q, N]: log p(x)
    gamma: float

    def score(self, target: Statistics) -> Scores:
        ratio = target.log_p()[0] - self.log_p  # [Q, N]
        # More than half of the Q queries exceed a bound exactly if the (Q // 2 + 1)-th largest of them does.
        most = np.sort(ratio, axis=0)[len(ratio) - (len(ratio) // 2 + 1)]
        beaten = np.searchsorted(np.sort(ratio[0]), most - np.log(self.gamma), side="left")
        return beaten / ratio.shape[1]
