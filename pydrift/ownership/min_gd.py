"""MinGD: by the gradient to every class, how far is it? White box.

Maini, Yaghini, Papernot: "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021. Training pushes the
boundaries away from the images that it sees, so these lie further from the other classes than unseen ones.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from pydrift.core.errors import UsageError
from pydrift.models.classifier import Classifier
from pydrift.ops import BoundaryWalks, MinGdOptions, min_gd
from pydrift.ops.reference import answer_statistics, min_gd_through
from pydrift.ownership.embedding import Embedded, refuse_not_finite

NORMS = ("linf", "l2", "l1")


@dataclass(frozen=True)
class MinGd:
    """Distances to each of an image's `classes` in three norms; the steps are the paper's (see `pydrift.ops.min_gd`).

    features: the distances, of each norm in ascending order. profile: log(distance + the length of one step), class by
    class. sureness: the log-odds of the label. A walk that has not arrived after `max_steps` counts as far as it came.
    """

    max_steps: int = 500
    linf_step: float = 0.001
    l2_step: float = 0.01
    l1_step: float = 0.01
    l1_coordinates: int = 100
    l1_gap: float = 0.001
    title: ClassVar[str] = "MinGD (white box)"

    def __post_init__(self) -> None:
        lengths = min(self.linf_step, self.l2_step, self.l1_step)
        if self.max_steps < 1 or not 0 < lengths < float("inf") or self.l1_coordinates < 1 or not 0 <= self.l1_gap < 1:
            raise UsageError(
                f"min-gd: max_steps and l1_coordinates >= 1, steps > 0 and l1_gap in [0, 1) are needed, got {self}"
            )

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> Embedded:
        count, targets = classes.shape
        image, rank, norm = torch.cartesian_prod(torch.arange(count), torch.arange(targets), torch.arange(3)).int().T
        label = classes[image.long(), rank.long()].int()
        walks = self._walk(model, x, image.contiguous(), label.contiguous(), norm.contiguous())
        refuse_not_finite(walks.distance, image)
        distance = walks.distance.cpu().double().view(count, targets, 3)
        lengths = [self.linf_step, self.l2_step, self.l1_step * min(self.l1_coordinates, x[0].numel())]
        one_step = torch.tensor(lengths, dtype=torch.float64)
        margin = answer_statistics(model.logits(x), y.to(model.device))[0]
        return Embedded(
            features=distance.sort(dim=1).values.flatten(1).numpy(),
            profile=(distance + one_step).log().flatten(1).numpy(),
            sureness=margin.cpu().double().numpy(),
            queries=int((walks.steps.long() + 1).sum()) + count,
        )

    def _walk(self, model: Classifier, x: Tensor, image: Tensor, label: Tensor, norm: Tensor) -> BoundaryWalks:
        options = MinGdOptions(**asdict(self))
        x, image, label, norm = (part.to(model.device) for part in (x.contiguous(), image, label, norm))
        if model.fused is None:
            return BoundaryWalks(*min_gd_through(model.forward, image, label, norm, x=x, options=options))
        parameters, program = model.fused.parameters()[None], model.fused.program()
        return min_gd(x, parameters, torch.zeros_like(image), image, label, norm, program=program, options=options)
