"""ASH-S, activation shaping: drops most activations and scales the others. The score is the energy of what remains.

Source: Djurisic, Bozanic, Ashok, Liu, "Extremely Simple Activation Shaping for Out-of-Distribution Detection", ICLR
2023.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import free_energy
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class Ash:
    """percentile  of an image's own penultimate activations, in [0, 100): smaller ones are dropped; the paper's: 90"""

    percentile: float = 90.0
    needs = Needs(penultimate=True, head=True)

    def __post_init__(self) -> None:
        if not 0 <= self.percentile < 100:
            raise UsageError(f"ASH: percentile must be in [0, 100), got {self.percentile:g}")

    @property
    def title(self) -> str:
        return f"ASH-S at the {self.percentile:g}th percentile (Djurisic et al. 2023)"

    def fit(self, features: Features, labels: Tensor) -> FittedAsh:
        check_fit(self, features, labels)
        assert features.head is not None
        return FittedAsh(features.head.weight, features.head.bias, self.percentile)


@dataclass(frozen=True, eq=False)
class FittedAsh:
    """weight [K, D] and bias [K] of the network's last layer."""

    weight: Tensor
    bias: Tensor
    percentile: float

    def score(self, features: Features) -> Tensor:
        assert features.penultimate is not None
        return free_energy(shape_activations(features.penultimate, self.percentile) @ self.weight.T + self.bias)


def shape_activations(x: Tensor, percentile: float) -> Tensor:
    """Keeps the largest (100 - percentile) % of each row of x [N, D], at least one, times exp(sum before / sum after).

    The other values become 0. The factor is 1 if the sum after is not positive, as for activations that are all 0. The
    paper assumes activations >= 0.
    """
    count = max(1, x.shape[1] - round(x.shape[1] * percentile / 100))
    values, index = x.topk(count, dim=1)
    after = values.sum(dim=1, keepdim=True)
    factor = (x.sum(dim=1, keepdim=True) / after).where(after > 0, 0.0).clamp_max(80.0).exp()
    return x.new_zeros(x.shape).scatter(1, index, values * factor)
