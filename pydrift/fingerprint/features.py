"""What detectors read: a network's logits and the activations of its layers, extracted once per set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """The linear layer that computes the logits: weight float32 [K, D], bias float32 [K]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, penultimate: Tensor) -> Tensor:
        """Logits [N, K] of activations [N, D]."""
        return F.linear(penultimate, self.weight, self.bias)


@dataclass(frozen=True)
class Needs:
    """Which features a detector reads beside the logits. No other features are extracted."""

    penultimate: bool = False
    head: bool = False  # the logits must be a linear layer of the penultimate activations
    pooled: bool = False
    spread: bool = False
    grams: bool = False
    nudged: bool = False  # needs a gradient with respect to the images: as much time as two more forward passes

    def __or__(self, other: Needs) -> Needs:
        return Needs(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(Needs)))


@dataclass(frozen=True, eq=False)
class Features:
    """The features of N images: float32 tensors, all on one device. What no detector needs is () or None.

    logits       [N, K]
    penultimate  [N, D]: the input of the last layer
    pooled       for each layer [N, C]: the mean of its activations over space; for a vector, the vector itself
    spread       for each layer [N, C]: the standard deviation over space; for a vector [N, 0]
    grams        for each layer [N, orders * C]: row sums of Gram matrices (see detectors/gram.py)
    nudged       [N, K]: the logits of the images after ODIN's step (see detectors/odin.py)
    head         the network's last layer, the same for all images
    """

    logits: Tensor
    penultimate: Tensor | None = None
    pooled: tuple[Tensor, ...] = ()
    spread: tuple[Tensor, ...] = ()
    grams: tuple[Tensor, ...] = ()
    nudged: Tensor | None = None
    head: Head | None = None

    def __len__(self) -> int:
        return len(self.logits)

    def __getitem__(self, index: Tensor | slice) -> Features:
        """The features of some of the images, given by a slice, integers [M] or a boolean mask [N]."""
        return Features(
            self.logits[index],
            None if self.penultimate is None else self.penultimate[index],
            tuple(layer[index] for layer in self.pooled),
            tuple(layer[index] for layer in self.spread),
            tuple(layer[index] for layer in self.grams),
            None if self.nudged is None else self.nudged[index],
            self.head,
        )


def join_features(parts: Sequence[Features]) -> Features:
    """The features of all images of the parts. The parts come from one network and have the same kinds of features."""

    def layers(name: str) -> tuple[Tensor, ...]:
        return tuple(torch.cat(each) for each in zip(*(getattr(part, name) for part in parts), strict=True))

    def whole(name: str) -> Tensor | None:
        found = [getattr(part, name) for part in parts]
        return None if found[0] is None else torch.cat(found)

    return Features(
        torch.cat([part.logits for part in parts]),
        whole("penultimate"),
        layers("pooled"),
        layers("spread"),
        layers("grams"),
        whole("nudged"),
        parts[0].head,
    )
