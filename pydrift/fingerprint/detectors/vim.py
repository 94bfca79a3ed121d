"""ViM, virtual-logit matching: the energy minus the part of the activations outside their principal subspace.

Source: Wang, Li, Feng, Zhang, "ViM: Out-Of-Distribution with Virtual-logit Matching", CVPR 2022.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.detectors.logit_scores import free_energy
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class Vim:
    """The subspace has the paper's dimension: 1000 if D >= 2048, 512 if D >= 768, else D / 2."""

    title = "ViM (Wang et al. 2022)"
    needs = Needs(penultimate=True, head=True)

    def fit(self, features: Features, labels: Tensor) -> FittedVim:
        check_fit(self, features, labels)
        assert features.penultimate is not None
        assert features.head is not None
        x, weight, bias = (t.double() for t in (features.penultimate, features.head.weight, features.head.bias))
        origin = -torch.linalg.pinv(weight) @ bias  # where all logits are 0
        centred = x - origin
        _, directions = torch.linalg.eigh(centred.T @ centred)  # ascending
        residual = directions[:, : x.shape[1] - _dimension(x.shape[1])]
        length = (centred @ residual).norm(dim=1)
        alpha = features.logits.double().amax(dim=1).mean() / length.mean().clamp_min(1e-12)
        return FittedVim(origin.float(), residual.float(), float(alpha))


@dataclass(frozen=True, eq=False)
class FittedVim:
    """The subspace.

    origin    float32 [D]: where all logits are 0
    residual  float32 [D, R]: an orthonormal basis of its complement
    alpha     scales the length of the residual to the size of the logits
    """

    origin: Tensor
    residual: Tensor
    alpha: float

    def score(self, features: Features) -> Tensor:
        """float32 [N]: the energy minus the virtual logit. The paper's softmax of that logit gives the same order."""
        assert features.penultimate is not None
        length = ((features.penultimate - self.origin) @ self.residual).norm(dim=1)
        return free_energy(features.logits) - self.alpha * length


def _dimension(width: int) -> int:
    return 1000 if width >= 2048 else 512 if width >= 768 else width // 2
