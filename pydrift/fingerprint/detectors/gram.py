"""Gram matrices of the activations.

For the activations F [C, S] of a layer (channels, places) and each order p: G_p = (F^p F^pT)^(1/p). Each row sum of G_p
has a range over the training images of each *predicted* class. The score is how far an image lies outside these ranges.
Each layer is divided by the mean deviation of held-out training images. The paper uses orders up to 10, here they go up
to 5: each order costs one more matrix product per layer.

Source: Sastry, Oore, "Detecting Out-of-Distribution Examples with Gram Matrices", ICML 2020.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from pydrift.fingerprint.detector import check_fit
from pydrift.fingerprint.features import Features, Needs

ORDERS = (1, 2, 3, 4, 5)
_HELD_OUT = 10  # every tenth training image
_ROWS = 32  # images whose Gram matrices are in memory together


def gram_rows(activations: Tensor) -> Tensor:
    """Row sums of the Gram matrices, order by order: float32 [N, orders * C] of activations [N, C, S].

    For a vector (S = 1) all orders give the same matrix, so there is one order. The activations of an image are divided
    by the largest of them before the power, and the result is multiplied by its square: no order overflows.
    """
    orders = ORDERS if activations.shape[2] > 1 else ORDERS[:1]
    return torch.cat([_rows(part, orders) for part in activations.split(_ROWS)])


def _rows(activations: Tensor, orders: tuple[int, ...]) -> Tensor:
    scale = activations.abs().amax(dim=(1, 2), keepdim=True).clamp_min(1e-30)
    unit = activations / scale
    sums = []
    for order in orders:
        power = unit**order
        gram = power @ power.transpose(1, 2)
        root = gram if order == 1 else gram.sign() * gram.abs() ** (1 / order)
        sums.append(root.sum(dim=2) * scale[:, 0].square())
    return torch.cat(sums, dim=1)


@dataclass(frozen=True)
class Gram:
    title = "Gram matrices, orders 1 to 5 (Sastry and Oore 2020)"
    needs = Needs(grams=True)

    def fit(self, features: Features, labels: Tensor) -> FittedGram:
        check_fit(self, features, labels)
        predicted = features.logits.argmax(dim=1)
        held_out = torch.arange(len(labels), device=predicted.device) % _HELD_OUT == _HELD_OUT - 1
        if held_out.all() or not held_out.any():
            held_out = torch.ones_like(held_out)  # too few images to hold any out
        seen = ~held_out if not held_out.all() else held_out
        low, high = [], []
        for layer in features.grams:
            ranges = [_range(layer, seen & (predicted == c), seen) for c in range(features.logits.shape[1])]
            low.append(torch.stack([r[0] for r in ranges]))
            high.append(torch.stack([r[1] for r in ranges]))
        fitted = FittedGram(tuple(low), tuple(high), torch.ones(len(low), device=labels.device))
        expected = fitted.deviations(features[held_out]).double().mean(dim=1)
        return FittedGram(fitted.low, fitted.high, expected.clamp_min(1e-6).float())


@dataclass(frozen=True, eq=False)
class FittedGram:
    """The ranges of the row sums.

    low, high  for each layer [K, orders * C]: the range in each predicted class
    expected   float32 [layers]: the mean deviation of held-out training images
    """

    low: tuple[Tensor, ...]
    high: tuple[Tensor, ...]
    expected: Tensor

    def deviations(self, features: Features) -> Tensor:
        """The relative distance outside the ranges, summed over the row sums of each layer: [layers, N]."""
        predicted = features.logits.argmax(dim=1)
        found = []
        for layer, low, high in zip(features.grams, self.low, self.high, strict=True):
            least, most = low[predicted], high[predicted]
            below = (least - layer).clamp_min(0) / (least.abs() + 1e-6)
            above = (layer - most).clamp_min(0) / (most.abs() + 1e-6)
            found.append((below + above).sum(dim=1))
        return torch.stack(found)

    def score(self, features: Features) -> Tensor:
        return -(self.deviations(features) / self.expected[:, None]).sum(dim=0)


def _range(layer: Tensor, chosen: Tensor, otherwise: Tensor) -> tuple[Tensor, Tensor]:
    """The least and largest values over the chosen images, or over the images `otherwise` if none is chosen."""
    values = layer[chosen if chosen.any() else otherwise]
    return values.amin(dim=0), values.amax(dim=0)
