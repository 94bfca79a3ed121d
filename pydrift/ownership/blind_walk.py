"""Blind Walk: straight on with the same noise, again and again, until the label changes. Only labels are asked for.

Maini, Yaghini, Papernot: "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021. Theirs draws noise
for every image; here all images of a model, and all models, are walked in the same directions, so that the answers of
two models can be compared, and images differ in nothing but themselves.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from pydrift.classifier import Classifier
from pydrift.errors import UsageError
from pydrift.noise import Phase, derived_seed
from pydrift.ops import BoundaryWalks, blind_walk
from pydrift.ops.reference_walks import blind_walk_through
from pydrift.ownership.embedding import Embedded, refuse_not_finite

FAMILIES = ("uniform", "normal", "laplace")  # distances are measured in linf, l2 and l1


@dataclass(frozen=True)
class BlindWalk:
    """How far it is along `starts` directions of each of three families of noise, in at most `max_steps` steps.

    scale  of one step: uniform in +- scale, normal of standard deviation scale, Laplace of parameter 2 scale

    features: the distances. profile: log(1 + steps). An image takes 9 walks of 26 queries at most, so that 60
    private and 60 public ones stay under 30,000; the paper has ten starts and 50 steps of half the length.
    """

    starts: int = 3
    scale: float = 0.01
    max_steps: int = 25
    seed: int = 0
    title: ClassVar[str] = "Blind Walk (label only)"

    def __post_init__(self) -> None:
        if min(self.starts, self.max_steps) < 1 or not 0 < self.scale < float("inf"):
            raise UsageError(f"blind-walk: starts and max_steps >= 1 and scale > 0 are needed, got {self}")

    def directions(self, input_shape: tuple[int, int, int]) -> Tensor:
        """float32 [3 * starts, C, H, W], a pure function of the seed: those of one family after the other."""
        random = np.random.Generator(np.random.Philox(derived_seed(self.seed, Phase.BLIND_WALK)))
        shape = (self.starts, *input_shape)
        noise = [
            random.uniform(-self.scale, self.scale, shape),
            random.normal(0, self.scale, shape),
            random.laplace(0, 2 * self.scale, shape),
        ]
        return torch.from_numpy(np.concatenate(noise).astype(np.float32))

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> Embedded:
        count, num_walks = len(x), 3 * self.starts
        image, direction = torch.cartesian_prod(torch.arange(count), torch.arange(num_walks)).int().T.contiguous()
        walks = self._walk(model, x, image, direction, y.int()[image.long()])
        refuse_not_finite(walks.distance, image)
        steps = walks.steps.cpu().double()
        return Embedded(
            features=walks.distance.cpu().double().view(count, num_walks).numpy(),
            profile=steps.log1p().view(count, num_walks).numpy(),
            queries=int((steps + 1).sum()),
        )

    def _walk(self, model: Classifier, x: Tensor, image: Tensor, direction: Tensor, label: Tensor) -> BoundaryWalks:
        options: dict[str, Any] = {"max_steps": self.max_steps, "lower": 0.0, "upper": 1.0}
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
        return blind_walk(x, directions, parameters, zero, image, direction, label, norm, program=program, **options)
