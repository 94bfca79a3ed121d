"""SHE, simplified Hopfield energy: the inner product of an image's activations with its class's mean pattern.

Source: Zhang et al., "Out-of-Distribution Detection based on In-Distribution Data Patterns Memorization with Modern
Hopfield Energy", ICLR 2023.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs


@dataclass(frozen=True)
class She:
    title = "SHE, inner product (Zhang et al. 2023)"
    needs = Needs(penultimate=True)

    def fit(self, features: Features, labels: Tensor) -> FittedShe:
        """The pattern of a class is the mean over its correctly classified images, or over all of them if none is."""
        check_fit(self, features, labels)
        assert features.penultimate is not None
        x, classes = features.penultimate, features.logits.shape[1]
        right = features.logits.argmax(dim=1) == labels
        patterns = x.new_zeros(classes, x.shape[1])
        for label in range(classes):
            of_class = labels == label
            chosen = of_class & right if (of_class & right).any() else of_class
            if chosen.any():  # the pattern of a class without an image is 0
                patterns[label] = x[chosen].double().mean(dim=0).to(torch.float32)
        return FittedShe(patterns)


@dataclass(frozen=True, eq=False)
class FittedShe:
    """patterns  float32 [K, D]: one for each class"""

    patterns: Tensor

    def score(self, features: Features) -> Tensor:
        """float32 [N]: the inner product with the pattern of the predicted class."""
        assert features.penultimate is not None
        return (features.penultimate * self.patterns[features.logits.argmax(dim=1)]).sum(dim=1)
