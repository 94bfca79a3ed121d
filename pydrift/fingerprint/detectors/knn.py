"""The distance to the k-th nearest training image.

Source: Sun, Ming, Zhu, Li, "Out-of-Distribution Detection with Deep Nearest Neighbors", ICML 2022.
"""

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
    """Distances are between penultimate activations, normalised to length 1.

    k     the number of the neighbour, at most the size of the bank; the paper's: 50
    bank  the most training images that are kept; from more, so many are taken, evenly spaced
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
        bank = features.penultimate[spread_indices(len(features), self.bank)]
        return FittedKnn(F.normalize(bank, dim=1), min(self.k, len(bank)))


@dataclass(frozen=True, eq=False)
class FittedKnn:
    """bank  float32 [M, D]: activations of training images, with length 1 (or 0)"""

    bank: Tensor
    k: int

    def score(self, features: Features) -> Tensor:
        """float32 [N]: minus the distance."""
        assert features.penultimate is not None
        found = [
            torch.cdist(x, self.bank).topk(self.k, dim=1, largest=False, sorted=False).values.amax(dim=1)
            for x in F.normalize(features.penultimate, dim=1).split(250)
        ]
        return -torch.cat(found) if found else features.logits.new_empty(0)


def spread_indices(count: int, most: int) -> Tensor:
    """int64: indices of at most `most` of `count` images, evenly spaced."""
    return torch.arange(count) if count <= most else torch.arange(most) * count // most
