"""ReAct: the energy score after large activations are cut off.

Source: Sun, Guo, Li, "ReAct: Out-of-distribution Detection With Rectified Activations", NeurIPS 2021.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import free_energy
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class React:
    """percentile  of all penultimate activations of the training images, in (0, 100]: the cut. The paper's: 90"""

    percentile: float = 90.0
    needs = Needs(penultimate=True, head=True)

    def __post_init__(self) -> None:
        if not 0 < self.percentile <= 100:
            raise UsageError(f"ReAct: percentile must be in (0, 100], got {self.percentile:g}")

    @property
    def title(self) -> str:
        return f"ReAct at the {self.percentile:g}th percentile (Sun et al. 2021)"

    def fit(self, features: Features, labels: Tensor) -> FittedReact:
        check_fit(self, features, labels)
        assert features.penultimate is not None
        assert features.head is not None
        threshold = float(np.percentile(features.penultimate.cpu().numpy(), self.percentile))
        return FittedReact(features.head.weight, features.head.bias, threshold)


@dataclass(frozen=True, eq=False)
class FittedReact:
    """weight [K, D] and bias [K] of the network's last layer, and the threshold at which activations are cut off."""

    weight: Tensor
    bias: Tensor
    threshold: float

    def score(self, features: Features) -> Tensor:
        assert features.penultimate is not None
        return free_energy(features.penultimate.clamp_max(self.threshold) @ self.weight.T + self.bias)
