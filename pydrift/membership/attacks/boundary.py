"""How far is the image from where the label changes? Members lie deeper inside their class. Only labels are needed.

Choquette-Choo, Tramer, Carlini, Papernot: "Label-Only Membership Inference Attacks", ICML 2021; Li, Zhang: "Membership
Leakage in Label-Only Exposures", CCS 2021. The walk along the boundary follows HopSkipJump (Chen, Jordan, Wainwright,
S&P 2020), for a block of images at once.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.membership.attack import Needs, Scores
from pydrift.models.classifier import Classifier
from pydrift.shadows.statistics import Statistics

_DRAWN = 64  # images of other classes; the nearest of them are tried as starts
_COARSE = 8  # bisections for a start that is only tried
_STEPS = 10  # tries of a step along the normal; each is half as long as the one before
_BLOCK = 128  # images walked together
_PIXELS = 1 << 23  # in neighbours that are asked together; with _BLOCK it bounds the memory


@dataclass(frozen=True)
class BoundaryDistance:
    """score = L2 distance to the nearest image found that gets another label.

    The score is 0 where the target's label is wrong already, and above 0 wherever it is right.
    So the attack separates at least what the correctness gap does.

    The walk begins with the `starts` nearest of some images that the target takes for another class. It takes the one
    whose line to the image crosses the boundary nearest to the image. Then it repeats `rounds` times:
    1. estimate the boundary's normal from the labels of random neighbours: `probes` in round 1, and sqrt(t) times as
       many in round t;
    2. step along the normal by distance / sqrt(t), halved until the label is another one;
    3. bisect back towards the image, to the boundary.
    The nearest point counts. `queries` is the number of labels that it asks for per image.
    """

    rounds: int = 30
    probes: int = 24
    bisections: int = 16
    starts: int = 8
    seed: int = 0
    title: ClassVar[str] = "boundary distance (label only)"
    needs: ClassVar[Needs] = Needs(distance=True)

    def __post_init__(self) -> None:
        if min(self.rounds, self.probes, self.bisections, self.starts) < 1:
            raise UsageError(f"boundary distance: rounds, probes, bisections and starts must be >= 1, got {self}")

    @property
    def queries(self) -> int:
        """How many labels are asked for per image at most, including that of the image itself."""
        crossings = self.starts * _COARSE + (1 + self.rounds) * self.bisections
        return 1 + crossings + sum(self._probes(t) + _STEPS for t in range(1, self.rounds + 1))

    def _probes(self, t: int) -> int:
        """How many neighbours round t = 1, 2, ... asks about. Later rounds are nearer to the goal and need more."""
        return int(self.probes * t**0.5)

    def distances(self, target: Classifier, x: Tensor, y: Tensor) -> NDArray[np.float32]:
        """`Statistics.distance` of the target: float32 [1, N]. x float32 [N, C, H, W] in [0, 1], y int64 [N].

        A function of the seed, the target and all of x, from which the starts are drawn. Where the target takes all
        images for one class, no boundary is known. Images with the right label then get the length of the diagonal of
        the image cube.
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
                walked = self._walk(target, images[reachable], labels[reachable], starts[:, reachable], generator)
                distance[reachable] = walked.clamp_min(torch.finfo(torch.float32).tiny)
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
        """Starts [starts, N, C, H, W]: for each image the nearest of some images of another predicted class.

        Also bool [N]: whether the image has any.
        """
        starts, reachable = images.new_zeros((self.starts, *images.shape)), torch.zeros(len(images), dtype=torch.bool)
        for label in labels.unique():
            others = (predicted != label).nonzero()[:, 0]
            if len(others) == 0:
                continue
            of_class = labels == label
            drawn = x[others[torch.randint(len(others), (max(_DRAWN, self.starts),), generator=generator)]]
            nearest = torch.cdist(images[of_class].flatten(1), drawn.flatten(1)).argsort(dim=1, stable=True)
            starts[:, of_class], reachable[of_class] = drawn[nearest[:, : self.starts].T], True
        return starts, reachable

    def _walk(
        self, target: Classifier, x: Tensor, labels: Tensor, starts: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Distances [N] from x to the nearest point found to which `target` gives another label than `labels`."""
        point = self._crossing(target, x, labels, starts)
        best = _norm(point - x)
        for t in range(1, self.rounds + 1):
            distance = _norm(point - x)
            normal = self._normal(target, point, labels, distance, self._probes(t), generator)
            step = distance / t**0.5
            ahead, landed = point, torch.zeros(len(x), dtype=torch.bool)
            for _ in range(_STEPS):
                tried = (point + _broadcast(step, x) * normal).clamp(0, 1)
                lands = (_labels(target, tried) != labels) & ~landed
                ahead, landed = torch.where(_broadcast(lands, x), tried, ahead), landed | lands
                step = step / 2
            point = _bisect(target, x, labels, ahead, self.bisections)
            best = torch.minimum(best, _norm(point - x))
        return best

    def _crossing(self, target: Classifier, x: Tensor, labels: Tensor, starts: Tensor) -> Tensor:
        """The boundary point nearest to x on the lines from x to its starts: [N, C, H, W]."""
        nearest, best = starts[0], torch.full((len(x),), torch.inf)
        for start in starts:
            point = _bisect(target, x, labels, start, _COARSE)
            distance = _norm(point - x)
            nearest = torch.where(_broadcast(distance < best, x), point, nearest)
            best = torch.minimum(best, distance)
        return _bisect(target, x, labels, nearest, self.bisections)

    def _normal(
        self,
        target: Classifier,
        point: Tensor,
        labels: Tensor,
        distance: Tensor,
        probes: int,
        generator: torch.Generator,
    ) -> Tensor:
        """Unit vectors [N, C, H, W], normal to the boundary at `point`, that point away from the images of `labels`.

        Neighbours lie about distance / sqrt(C H W) away, and distance / (C H W) across the boundary. That is near
        enough for a flat boundary, and far more than the error of the bisection.
        """
        pixels = point[0].numel()
        radius = _broadcast((distance / pixels).clamp_min(1e-7), point)  # per pixel
        across, moved, moved_across = torch.zeros(len(point)), torch.zeros_like(point), torch.zeros_like(point)
        left = probes
        while left > 0:
            some = min(left, max(1, _PIXELS // point.numel()))
            near = (point + radius * torch.randn((some, *point.shape), generator=generator)).clamp(0, 1)
            crossed = (_labels(target, near.flatten(0, 1)).view(some, -1) != labels).float()
            near -= point
            across, moved = across + crossed.sum(dim=0), moved + near.sum(dim=0)
            moved_across += torch.einsum("pn,pn...->n...", crossed, near)
            left -= some
        normal = moved_across - _broadcast(across / probes, point) * moved  # centred answers, as in HopSkipJump
        return normal / _broadcast(_norm(normal).clamp_min(1e-30), point)


def _bisect(target: Classifier, x: Tensor, labels: Tensor, beyond: Tensor, times: int) -> Tensor:
    """The point nearest to x, on the line to `beyond`, that still has another label; exact to 2^-times of the line."""
    low, high = torch.zeros(len(x)), torch.ones(len(x))
    for _ in range(times):
        middle = (low + high) / 2
        across = _labels(target, x + _broadcast(middle, x) * (beyond - x)) != labels
        low, high = torch.where(across, low, middle), torch.where(across, middle, high)
    return torch.where(_broadcast(high < 1, x), x + _broadcast(high, x) * (beyond - x), beyond)


def _labels(target: Classifier, x: Tensor) -> Tensor:
    """All that the attack learns from the target: int64 [N]."""
    return target.logits(x).argmax(dim=1).cpu()


def _norm(x: Tensor) -> Tensor:
    return x.flatten(1).norm(dim=1)


def _broadcast(values: Tensor, x: Tensor) -> Tensor:
    """`values` [N] as [N, 1, 1, 1], to compute with x [N, C, H, W]."""
    return values.view(-1, *[1] * (x.ndim - 1))
