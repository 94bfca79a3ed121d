"""How models recognise images, class by class: the figures that the drift verdict is made of.

All figures are means of *compressed* log-odds, 2 asinh(x / 2) of log-odds x. That is x where a model is in doubt, and
grows like log |x| where it is sure. How sure a model is depends on the recipe (epochs, learning rate, label smoothing)
more than on the concept, and a mean of plain log-odds would be a mean of the surest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.parallel import each
from pydrift.drift.probes import OCCLUSION_COLOURS, occlude
from pydrift.models.classifier import Classifier

T = TypeVar("T")
Advance = Callable[[], None]


@dataclass(frozen=True)
class Recognition:
    """How observers recognise images that sources made of classes, as means over restarts.

    odds        float64 [observers, sources, classes, classes]: compressed log p(c | x) - log p(d | x) on the images
                that each source made of class c (third axis). Summed over all d this would be the logit margin of LiRA,
                log p(c) - log(1 - p(c)); class by class it says what else the images would be taken for.
    confidence  float64 [observers, sources, classes]: p(c | x)
    """

    odds: NDArray[np.float64]
    confidence: NDArray[np.float64]


def recognise(
    observers: Sequence[Classifier],
    images: Tensor,
    advance: Advance = lambda: None,
    *,
    made_of: Sequence[int] | None = None,
) -> Recognition:
    """Asks every observer about images that were made of classes.

    images   float32 [sources, classes, restarts, C, H, W] in [0, 1]
    made_of  the classes along the second axis; default: all of them in order
    advance  called once per observer

    Deterministic, and a figure does not depend on which other observers and sources are asked.
    """
    own = torch.arange(images.shape[1]) if made_of is None else torch.tensor(made_of)
    found = list(_ask_each(partial(_recognise, images=images, own=own), observers, advance))
    return Recognition(*(np.stack(part) for part in zip(*found, strict=True)))


def recognised_by_others(
    models: Sequence[Classifier], images: Tensor, advance: Advance = lambda: None
) -> NDArray[np.float64]:
    """How the other models recognise the images that each model made: float64 [models, classes, classes].

    images  float32 [models, classes, restarts, C, H, W] in [0, 1]

    The mean over all other models of the odds of `recognise`. Only a running sum is kept, not what each says of each.
    """
    own = torch.arange(images.shape[1])
    total = np.zeros((len(models), len(own), len(own)))
    found = _ask_each(partial(_recognise, images=images, own=own), models, advance)
    for observer, (odds, _) in enumerate(found):
        odds[observer] = 0  # a model is not asked about images that it made
        total += odds
    return total / (len(models) - 1)


def occlusion_sensitivity(
    observers: Sequence[Classifier], images: Tensor, advance: Advance = lambda: None
) -> dict[str, NDArray[np.float64]]:
    """How far a small occlusion moves the observers towards a class, on images of the other classes.

    images  float32 [sources, classes, C, H, W] in [0, 1], made of the classes in order

    -> of each colour of OCCLUSION_COLOURS float64 [observers, sources, down, across, classes]. It is the change, by an
    occlusion in that place, of the compressed log-odds of a class against the (geometric) mean of all classes.

    `advance` and determinism as in `recognise`.
    """
    found = list(_ask_each(partial(_occlusion_sensitivity, images=images), observers, advance))
    return {colour: np.stack([one[colour] for one in found]) for colour in OCCLUSION_COLOURS}


def class_bias(observers: Sequence[Classifier], images: Tensor, advance: Advance = lambda: None) -> NDArray[np.float64]:
    """Which classes observers prefer on images of no class.

    images  float32 [kinds, N, C, H, W] in [0, 1]

    -> float64 [observers, kinds, classes]: the mean compressed log-odds of a class against the (geometric) mean of all.

    `advance` and determinism as in `recognise`.
    """
    return np.stack(list(_ask_each(partial(_class_bias, images=images), observers, advance)))


def _ask_each(ask: Callable[[Classifier], T], observers: Sequence[Classifier], advance: Advance) -> Iterator[T]:
    for response in each(ask, observers):
        yield response
        advance()


# In batches of one source in all three: where torch answers, last bits depend on what else is in a batch.


def _recognise(observer: Classifier, images: Tensor, own: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """-> odds [sources, classes, classes] and confidence [sources, classes] of one observer."""
    logits = torch.stack(list(_logits(observer, (source.flatten(0, 1) for source in images))))
    logits = logits.view(*images.shape[:3], -1)
    confidence = logits.softmax(dim=-1)[:, torch.arange(len(own)), :, own].mean(dim=2).T
    of_own = logits.take_along_dim(own[None, :, None, None], dim=3)
    return _compressed(of_own - logits).mean(dim=2).numpy(), confidence.numpy()


def _occlusion_sensitivity(observer: Classifier, images: Tensor) -> dict[str, NDArray[np.float64]]:
    others = 1 - torch.eye(images.shape[1], dtype=torch.float64)
    others /= others.sum(dim=0)
    found: dict[str, list[Tensor]] = {colour: [] for colour in OCCLUSION_COLOURS}
    for source in images:
        plain = _against_all(*_logits(observer, [source]))
        for colour, of_sources in found.items():
            rows = list(_logits(observer, (row.flatten(0, 1) for row in occlude(source, colour))))
            occluded = _against_all(torch.stack(rows)).view(len(rows), -1, *plain.shape)
            of_sources.append(((occluded - plain) * others).sum(dim=2))
    return {colour: torch.stack(of_sources).numpy() for colour, of_sources in found.items()}


def _class_bias(observer: Classifier, images: Tensor) -> NDArray[np.float64]:
    return torch.stack([_against_all(kind).mean(dim=0) for kind in _logits(observer, images)]).numpy()


def _logits(observer: Classifier, batches: Iterable[Tensor]) -> Iterator[Tensor]:
    for logits in observer.logits_of_each(batches):
        yield logits.cpu().double()


def _against_all(logits: Tensor) -> Tensor:
    return _compressed(logits - logits.mean(dim=-1, keepdim=True))


def _compressed(log_odds: Tensor) -> Tensor:
    return 2 * torch.asinh(log_odds / 2)
