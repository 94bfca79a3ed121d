"""The answers of K models about N images, reduced to a few numbers for each answer."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.parallel import each
from pydrift.models.classifier import Classifier
from pydrift.ops import ShadowStatistics, shadow_statistics
from pydrift.ops.reference import answer_statistics

_SHIFT = re.compile(r"shift:(-?\d{1,3}),(-?\d{1,3})")


@dataclass(frozen=True)
class Statistics:
    """The answers of K models about N images with labels y, each image shown in Q ways.

    margin      float32 [K, Q, N]: log p_y - log(1 - p_y)
    loss        float32 [K, Q, N]: -log p_y
    confidence  float32 [K, Q, N]: p_y
    prediction  int32   [K, Q, N]: the class with the largest logit
    posterior   float32 [K, N, classes]: the probabilities of all classes for the first query; None if not asked for
    distance    float32 [K, N]: the distance to the decision boundary (see BoundaryDistance); None if not asked for
    """

    margin: NDArray[np.float32]
    loss: NDArray[np.float32]
    confidence: NDArray[np.float32]
    prediction: NDArray[np.int32]
    posterior: NDArray[np.float32] | None = None
    distance: NDArray[np.float32] | None = None

    @property
    def num_models(self) -> int:
        return self.margin.shape[0]

    @property
    def num_images(self) -> int:
        return self.margin.shape[2]

    def models(self, chosen: slice | NDArray[np.int64]) -> Statistics:
        """The statistics of some of the models."""
        parts: dict[str, Any] = {name: None if value is None else value[chosen] for name, value in vars(self).items()}
        return Statistics(**parts)

    @classmethod
    def join(cls, parts: Iterable[Statistics], count: int) -> Statistics:
        """The statistics of several groups of models as one, in that order; `count` >= 1 is the number of all models.

        Each group is copied when it comes, so there is never more than one of them beside the result.
        """
        whole: dict[str, Any] = {}
        first = 0
        for part in parts:
            for name, values in vars(part).items():
                if values is None:
                    whole[name] = None
                    continue
                if first == 0:
                    whole[name] = np.empty((count, *values.shape[1:]), values.dtype)
                whole[name][first : first + part.num_models] = values
            first += part.num_models
            del part, values  # before the next is made
        return cls(**whole)

    def log_p(self) -> NDArray[np.float64]:
        """log p_y from the margin: float64 [K, Q, N]. It still differs between images whose loss rounds to 0."""
        return -np.logaddexp(0, -self.margin.astype(np.float64))


def measure(
    models: Sequence[Classifier],
    x: Tensor,
    y: Tensor,
    *,
    queries: Sequence[str] = ("plain",),
    posterior: bool = False,
    advance: Callable[[], None] = lambda: None,
) -> Statistics:
    """Asks every model about every image.

    x          [N, C, H, W], float32 in [0, 1] or uint8 (value / 255)
    y          int64 [N]
    queries    how the images are shown: see `view`
    posterior  whether to keep all class probabilities of the first query
    advance    called once per query and model

    Models that are lowered to the same program are asked in one native call, which stores no logits. Other models, and
    all models for the posterior, answer in torch, each on one thread and in fixed batches. So no figure depends on the
    other queries, the other models or the number of threads. UsageError for an unknown query.
    """
    program = _program(models)
    columns: dict[str, list[NDArray]] = {}
    for q, query in enumerate(queries):
        seen, whole = view(x, query), posterior and q == 0
        stacked: dict[str, NDArray] = {}
        if program is None or whole:
            answers = []
            for answer in each(partial(_ask, seen, y, whole), models):
                answers.append(answer)
                advance()
            stacked = {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
        if program is not None:
            stacked |= _ask_all(models, program, seen, y)
            for _ in () if whole else models:
                advance()
        for name, values in stacked.items():
            columns.setdefault(name, []).append(values)
    (kept,) = columns.pop("posterior", [None])
    return Statistics(**{name: np.stack(values, axis=1) for name, values in columns.items()}, posterior=kept)


def view(x: Tensor, query: str) -> Tensor:
    """The images [N, C, H, W] as a query shows them. UsageError for an unknown query.

    query  "plain", "flip" (mirrored left to right) or "shift:DOWN,RIGHT" (by whole pixels, negative for up and left;
           the uncovered border is 0)
    """
    if query == "plain":
        return x
    if query == "flip":
        return x.flip(-1)
    if (match := _SHIFT.fullmatch(query)) is None:
        raise UsageError(f"no such query: {query!r}; known are plain, flip and shift:DOWN,RIGHT")
    down, right = int(match[1]), int(match[2])
    height, width = x.shape[-2:]
    if abs(down) >= height or abs(right) >= width:
        raise UsageError(f"query {query!r}: shifts images of {height}x{width} pixels out of view")
    return F.pad(x, (right, -right, down, -down))


def _program(models: Sequence[Classifier]) -> list[int] | None:
    """The layer program, if all models are lowered to the same one on the same device; else None."""
    first = models[0]
    if first.fused is None:
        return None
    program = first.fused.program()
    same = (m.fused is not None and m.fused.program() == program and m.device == first.device for m in models)
    return program if all(same) else None


def _ask_all(models: Sequence[Classifier], program: list[int], x: Tensor, y: Tensor) -> dict[str, NDArray]:
    """The signals and the prediction of every model and image: [K, N] each."""
    device = models[0].device
    parameters = torch.stack([model.fused.parameters() for model in models if model.fused is not None])
    images, labels = x.contiguous().to(device), y.int().to(device)
    answer = shadow_statistics(images, parameters, labels, program=program)
    return {name: values.cpu().numpy() for name, values in answer._asdict().items()}


def _ask(x: Tensor, y: Tensor, posterior: bool, model: Classifier) -> dict[str, NDArray]:
    """The signals and the prediction of every image, [N] each; with `posterior` also that, [N, classes]."""
    logits = model.logits(x)
    answer = ShadowStatistics(*answer_statistics(logits, y.to(model.device)))._asdict()
    answer["prediction"] = answer["prediction"].int()
    if posterior:
        answer["posterior"] = logits.softmax(dim=1)
    return {name: values.cpu().numpy() for name, values in answer.items()}


def check_finite(statistics: Statistics, names: Sequence[str]) -> None:
    """InputRefused where logits are not finite; it names the first such model (of `names`) and image."""
    wrong = np.argwhere(~np.isfinite(statistics.margin))
    if len(wrong):
        k, _, n = wrong[0]
        raise InputRefused(f"{names[k]}: gives logits that are not finite for image {n}")


def check_varied(statistics: Statistics, y: NDArray[np.int64], name: str) -> None:
    """InputRefused where the model `name` (K = 1) gives all images, with labels y [N], the same answer.

    The same answer gives all images of a class the same margin. Without a posterior this cannot be seen if no class
    has two images.
    """
    margin, posterior = statistics.margin, statistics.posterior
    same = bool((statistics.prediction == statistics.prediction[0, 0, 0]).all())
    same &= all(np.ptp(margin[:, :, y == label]) == 0 for label in np.unique(y))
    if posterior is not None:
        same &= bool((posterior == posterior[:, :1]).all())
    if same and (posterior is not None or np.bincount(y).max() > 1):
        raise InputRefused(f"{name}: gives every image the same answer, so no attack can tell members from others")
