"""Distance to the k-th nearest training image (Sun, Ming, Zhu, Li, "OOD Detection with Deep Nearest Neighbors")."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class Knn:
    """In penultimate activations of length 1.

    k     which neighbour; the paper's 50, or the last there is
    bank  training images that are kept: every n-th where there are more
    """

    k: int = 50
    bank: int = 10_000
    needs = Needs(penultimate=True)

    def __post_init__(self) -> None:
        if self.k < 1 or self.bank < 1:
            raise UsageError(f"kNN: k and bank must be >= 1, got {self.k} and {self.bank}")

    @property
    def title(self) -> str:
        return f"{self.k}-th nearest neighbour (Sun et al. 2022)"

    def fit(self, features: Features, labels: Tensor) -> FittedKnn:
        check_fit(self, features, labels)
        assert features.penultimate is not None
        bank = features.penultimate[evenly(len(features), self.bank)]
        return FittedKnn(F.normalize(bank, dim=1), min(self.k, len(bank)))


@dataclass(frozen=True, eq=False)
class FittedKnn:
    """bank float32 [M, D], rows of length 1 (or 0)."""

    bank: Tensor
    k: int

    def score(self, features: Features) -> Tensor:
        """Minus the distance: float32 [N]."""
        assert features.penultimate is not None
        found = [
            torch.cdist(x, self.bank).topk(self.k, dim=1, largest=False, sorted=False).values.amax(dim=1)
            for x in F.normalize(features.penultimate, dim=1).split(250)
        ]
        return -torch.cat(found) if found else features.logits.new_empty(0)


def evenly(count: int, most: int) -> Tensor:
    """Indices of at most `most` of `count` images, evenly spaced: int64."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most
