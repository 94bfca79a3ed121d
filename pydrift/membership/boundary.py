"""How far is the image from where the label changes? Members lie deeper inside their class; only labels are asked for.

Choquette-Choo, Tramer, Carlini, Papernot: "Label-Only Membership Inference Attacks", ICML 2021; Li, Zhang: "Membership
Leakage in Label-Only Exposures", CCS 2021. The walk along the boundary is in the manner of HopSkipJump (Chen, Jordan,
Wainwright, S&P 2020), for a whole block of images at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.classifier import Classifier
from pydrift.errors import UsageError
from pydrift.membership.attack import Needs, Scores
from pydrift.membership.statistics import Statistics

_STEPS = 5  # tries of a step along the normal, each half the one before
_BLOCK = 128  # images walked together: bounds the memory


@dataclass(frozen=True)
class BoundaryDistance:
    """score = L2 distance to the nearest image found that has another label; 0 where the label is wrong already.

    The walk: from the nearest of `starts` images that the target takes for another class, bisect towards the image
    until the boundary; there estimate its normal from the labels of `probes` random neighbours, step along the normal,
    and bisect again; `rounds` times, keeping the nearest point. `queries` is all it asks per image.
    """

    rounds: int = 4
    probes: int = 24
    bisections: int = 8
    starts: int = 16
    seed: int = 0
    title: ClassVar[str] = "boundary distance (label only)"
    needs: ClassVar[Needs] = Needs(distance=True)

    def __post_init__(self) -> None:
        if min(self.rounds, self.probes, self.bisections, self.starts) < 1:
            raise UsageError(f"boundary distance: rounds, probes, bisections and starts must be >= 1, got {self}")

    @property
    def queries(self) -> int:
        """Labels asked per image at most, the first one of the image itself included."""
        return 1 + self.bisections + self.rounds * (self.probes + _STEPS + self.bisections)

    def distances(self, target: Classifier, x: Tensor, y: Tensor) -> NDArray[np.float32]:
        """float32 [1, N]: what `Statistics.distance` holds. x float32 [N, C, H, W] in [0, 1], y int64 [N].

        A function of the seed, the target and all of x: the starts are drawn from it. Where the target takes all
        images for one class, no boundary is known, and right answers are infinitely far from it; these are set to the
        diagonal of the image cube.
        """
        generator = torch.Generator().manual_seed(self.seed)
        predicted = _labels(target, x)
        found = torch.zeros(len(x))
        far = float(x[0].numel()) ** 0.5
        for begin in range(0, len(x), _BLOCK):
            block = slice(begin, begin + _BLOCK)
            right = predicted[block] == y[block]
            images, labels = x[block][right], y[block][right]
            distance = torch.full((len(images),), far)
            starts, reachable = self._starts(images, labels, x, predicted, generator)
            if reachable.any():
                walked = self._walk(target, images[reachable], labels[reachable], starts[reachable], generator)
                distance[reachable] = walked
            found[block][right] = distance
        return found.numpy()[None]

    def fit(self, shadow: Statistics, member: NDArray[np.bool_], y: NDArray[np.int64]) -> BoundaryDistance:
        return self

    def score(self, target: Statistics) -> Scores:
        if target.distance is None:
            raise UsageError(f"{self.title} needs the target's distances: see BoundaryDistance.distances")
        return target.distance[0].astype(np.float64)

    def _starts(
        self, images: Tensor, labels: Tensor, x: Tensor, predicted: Tensor, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """For each image the nearest of some images taken for another class, and whether there is one."""
        starts, reachable = torch.zeros_like(images), torch.zeros(len(images), dtype=torch.bool)
        for label in labels.unique():
            others = (predicted != label).nonzero()[:, 0]
            if len(others) == 0:
                continue
            of_class = labels == label
            drawn = x[others[torch.randint(len(others), (self.starts,), generator=generator)]]
            nearest = torch.cdist(images[of_class].flatten(1), drawn.flatten(1)).argmin(dim=1)
            starts[of_class], reachable[of_class] = drawn[nearest], True
        return starts, reachable

    def _walk(
        self, target: Classifier, x: Tensor, labels: Tensor, starts: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Distances [N] from x to the nearest point found that `target` does not take for `labels`."""
        point = self._bisect(target, x, labels, starts)
        best = _norm(point - x)
        for round_ in range(self.rounds):
            distance = _norm(point - x)
            radius = (distance / len(x[0].flatten()) ** 0.5).clamp_min(1e-4)  # of a neighbour, per pixel
            noise = torch.randn((self.probes, *x.shape), generator=generator)
            near = (point + _shaped(radius, x) * noise).clamp(0, 1)
            across = (_labels(target, near.flatten(0, 1)).view(self.probes, -1) != labels).float()
            weight = across - across.mean(dim=0)  # as HopSkipJump centres its answers: less variance
            normal = (weight[:, :, None, None, None] * (near - point)).sum(dim=0)
            normal = normal / _shaped(_norm(normal).clamp_min(1e-12), x)
            step = distance / (round_ + 1) ** 0.5
            ahead, landed = point, torch.zeros(len(x), dtype=torch.bool)
            for _ in range(_STEPS):  # halve the step until it stays on the other side
                tried = (point + _shaped(step, x) * normal).clamp(0, 1)
                lands = (_labels(target, tried) != labels) & ~landed
                ahead, landed = torch.where(_shaped(lands, x), tried, ahead), landed | lands
                step = step / 2
            point = self._bisect(target, x, labels, ahead)
            best = torch.minimum(best, _norm(point - x))
        return best

    def _bisect(self, target: Classifier, x: Tensor, labels: Tensor, beyond: Tensor) -> Tensor:
        """The point nearest to x on the line to `beyond` that still has another label, to 2^-bisections of it."""
        low, high = torch.zeros(len(x)), torch.ones(len(x))
        for _ in range(self.bisections):
            middle = (low + high) / 2
            across = _labels(target, x + _shaped(middle, x) * (beyond - x)) != labels
            low, high = torch.where(across, low, middle), torch.where(across, middle, high)
        return x + _shaped(high, x) * (beyond - x)


def _labels(target: Classifier, x: Tensor) -> Tensor:
    """All that the attack is told: int64 [N]."""
    return target.logits(x).argmax(dim=1).cpu()


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _shaped(values: Tensor, x: Tensor) -> Tensor:
    """[N] made to broadcast against x [N, C, H, W]."""
    return values.view(-1, *[1] * (x.ndim - 1))
