"""Blind Walk: adds the same noise again and again until the label changes. It needs labels only.

Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021. Two things
differ from the paper. The paper draws new noise for every image; here all images and all models share the directions,
so that the answers of two models can be compared. And the labels of noisy copies near the image are read, too.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.models.classifier import Classifier
from pydrift.ops import BlindWalkOptions, BoundaryWalks, blind_walk
from pydrift.ops.reference import blind_walk_through
from pydrift.ownership.embeddings import ImageEmbeddings, refuse_not_finite

MAX_QUERIES = 30_000  # to one suspect, the limit that the paper names


@dataclass(frozen=True)
class BlindWalk:
    """Distances to the decision boundary along random directions, and the labels of noisy copies.

    starts     directions of each family of noise: uniform, normal and Laplace; their distances are linf, l2 and l1
    scale      size of one step: uniform in +- scale, normal of standard deviation scale, Laplace of parameter 2 scale
    max_steps  the most steps of a walk; a walk that keeps its label counts as this long
    copies     noisy copies of each image; a third of them has noise of each family
    reach      how many steps away from the image the copies are

    features: the distances, as published. profile (ours): the share of the copies with each label. label_confidence
    (ours): that share for the image's own label.

    With the defaults an image takes at most 6 walks of 21 queries, and 30 queries for its copies. So 63 private images
    with twice as many public ones stay under 30,000 queries. The paper has ten starts and 50 shorter steps.
    """

    starts: int = 2
    scale: float = 0.0125
    max_steps: int = 20
    copies: int = 30
    reach: float = 5.0
    seed: int = 0
    title: ClassVar[str] = "Blind Walk (label only)"

    def __post_init__(self) -> None:
        sizes = min(self.scale, self.reach), max(self.scale, self.reach)
        counts = min(self.starts, self.max_steps, self.copies)
        if counts < 1 or self.copies % 3 or not 0 < sizes[0] <= sizes[1] < float("inf"):
            raise UsageError(
                "blind-walk: starts and max_steps must be >= 1, copies a multiple of 3, scale and reach > 0; got "
                f"{self}"
            )

    def directions(self, input_shape: tuple[int, int, int]) -> Tensor:
        """float32 [3 * starts, C, H, W]: the directions of one family after the other; a pure function of the seed."""
        return self._noise(self.starts, 0, input_shape)

    def _noise(self, count: int, number: int, input_shape: tuple[int, int, int]) -> Tensor:
        """float32 [3 * count, C, H, W]: one step in each direction. Each `number` has its own noise."""
        random = np.random.Generator(np.random.Philox(derived_seed(self.seed, Phase.BLIND_WALK, number)))
        shape = (count, *input_shape)
        noise = [
            random.uniform(-self.scale, self.scale, shape),
            random.normal(0, self.scale, shape),
            random.laplace(0, 2 * self.scale, shape),
        ]
        return torch.from_numpy(np.concatenate(noise).astype(np.float32))

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> ImageEmbeddings:
        count, num_walks = len(x), 3 * self.starts
        image, direction = torch.cartesian_prod(torch.arange(count), torch.arange(num_walks)).int().T.contiguous()
        walks = self._walk(model, x, image, direction, y.int()[image.long()])
        refuse_not_finite(walks.distance, image)
        noise = self.reach * self._noise(self.copies // 3, 1, model.input_shape)
        shares = torch.stack([_one_hot_labels(model, (x + shift).clamp(0, 1)) for shift in noise]).mean(dim=0)
        return ImageEmbeddings(
            features=walks.distance.cpu().double().view(count, num_walks).numpy(),
            profile=shares.numpy(),
            label_confidence=shares.gather(1, y[:, None])[:, 0].numpy(),
            queries=int((walks.steps.long() + 1).sum()) + len(noise) * count,
        )

    def _walk(self, model: Classifier, x: Tensor, image: Tensor, direction: Tensor, label: Tensor) -> BoundaryWalks:
        options = BlindWalkOptions(max_steps=self.max_steps)
        norm = direction // self.starts
        ids = (part.to(model.device) for part in (image, direction, label, norm))
        image, direction, label, norm = ids
        x, directions = x.contiguous().to(model.device), self.directions(model.input_shape).to(model.device)
        if model.fused is None:
            walked = blind_walk_through(
                model.forward, image, direction, label, norm, x=x, directions=directions, options=options
            )
            return BoundaryWalks(*walked)
        parameters, program = model.fused.parameters()[None], model.fused.program()
        zero = torch.zeros_like(image)
        return blind_walk(
            x, directions, parameters, zero, image, direction, label, norm, program=program, options=options
        )


def _one_hot_labels(model: Classifier, x: Tensor) -> Tensor:
    """The label of each image, one-hot: float64 [N, K]."""
    logits = model.logits(x).cpu()
    refuse_not_finite(torch.where(logits.isfinite().all(dim=1), 0.0, torch.nan), torch.arange(len(x)))
    return functional.one_hot(logits.argmax(dim=1), model.num_classes).double()
