"""What detectors read: a network's answers and the activations of its layers, collected once per set of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor


@dataclass(frozen=True, eq=False)
class Head:
    """The last layer, which makes the logits: weight float32 [K, D], bias float32 [K]."""

    weight: Tensor
    bias: Tensor

    def __call__(self, penultimate: Tensor) -> Tensor:
        """Logits [N, K] of activations [N, D]."""
        return F.linear(penultimate, self.weight, self.bias)


@dataclass(frozen=True)
class Needs:
    """Which features a detector reads beside the logits; only what some detector needs is collected."""

    penultimate: bool = False
    head: bool = False  # a network whose logits are a linear layer of the penultimate activations
    pooled: bool = False
    spread: bool = False
    grams: bool = False
    nudged: bool = False  # takes a gradient in the images: about two forward passes more

    def __or__(self, other: Needs) -> Needs:
        return Needs(*(getattr(self, f.name) or getattr(other, f.name) for f in fields(Needs)))


@dataclass(frozen=True, eq=False)
class Features:
    """Of N images, float32, all on one device; () or None where nobody needed it.

    logits       [N, K]
    penultimate  [N, D], what the last layer reads
    pooled       per layer [N, C]: the mean over space of what the layer gives (a vector is its own mean)
    spread       per layer [N, C]: the standard deviation over space; [N, 0] of a vector
    grams        per layer [N, orders * C]: row sums of Gram matrices (see gram.py)
    nudged       [N, K], logits of the images after ODIN's step
    head         of the network, not of the images
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
        """Those of some images, by a slice, integers [M] or a boolean mask [N]."""
        return Features(
            self.logits[index],
            None if self.penultimate is None else self.penultimate[index],
            tuple(layer[index] for layer in self.pooled),
            tuple(layer[index] for layer in self.spread),
            tuple(layer[index] for layer in self.grams),
            None if self.nudged is None else self.nudged[index],
            self.head,
        )


def joined(parts: Sequence[Features]) -> Features:
    """The features of all images of the parts, which are of one network and of the same kinds."""

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
