"""MinGD: distances to every class, found by gradient descent. It needs the model's weights (white box).

Training pushes the decision boundary away from the training images. So these lie further from the other classes than
unseen images do.

Source: Maini, Yaghini, Papernot, "Dataset Inference: Ownership Resolution in Machine Learning", ICLR 2021.
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
from pydrift.ownership.embeddings import ImageEmbeddings, refuse_not_finite


@dataclass(frozen=True)
class MinGd:
    """Distances to the `classes` of each image in three norms: linf, l2 and l1. The steps are the paper's.

    max_steps                       the most steps of a walk; an unfinished walk counts as far as it came
    linf_step, l2_step, l1_step     length of one step; for l1, of each coordinate that moves
    l1_coordinates, l1_gap          see `pydrift.ops.min_gd`

    features: the distances; those of one norm are in ascending order. profile: log(distance + length of one step),
    class by class. label_confidence: the log-odds of the label.
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
                f"min-gd: max_steps and l1_coordinates must be >= 1, steps > 0 and l1_gap in [0, 1); got {self}"
            )

    def embed(self, model: Classifier, x: Tensor, y: Tensor, classes: Tensor) -> ImageEmbeddings:
        count, targets = classes.shape
        image, rank, norm = torch.cartesian_prod(torch.arange(count), torch.arange(targets), torch.arange(3)).int().T
        label = classes[image.long(), rank.long()].int()
        walks = self._walk(model, x, image.contiguous(), label.contiguous(), norm.contiguous())
        refuse_not_finite(walks.distance, image)
        distance = walks.distance.cpu().double().view(count, targets, 3)
        lengths = [self.linf_step, self.l2_step, self.l1_step * min(self.l1_coordinates, x[0].numel())]
        one_step = torch.tensor(lengths, dtype=torch.float64)
        margin = answer_statistics(model.logits(x), y.to(model.device))[0]
        return ImageEmbeddings(
            features=distance.sort(dim=1).values.flatten(1).numpy(),
            profile=(distance + one_step).log().flatten(1).numpy(),
            label_confidence=margin.cpu().double().numpy(),
            queries=int((walks.steps.long() + 1).sum()) + count,
        )

    def _walk(self, model: Classifier, x: Tensor, image: Tensor, label: Tensor, norm: Tensor) -> BoundaryWalks:
        options = MinGdOptions(**asdict(self))
        x, image, label, norm = (part.to(model.device) for part in (x.contiguous(), image, label, norm))
        if model.fused is None:
            return BoundaryWalks(*min_gd_through(model.forward, image, label, norm, x=x, options=options))
        parameters, program = model.fused.parameters()[None], model.fused.program()
        return min_gd(x, parameters, torch.zeros_like(image), image, label, norm, program=program, options=options)
