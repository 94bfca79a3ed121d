"""What models say of gray data, kept per pair of classes: the measurements that the drift verdict is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.classifier import Classifier
from pydrift.parallel import each


@dataclass(frozen=True)
class Recognition:
    """What observers say of gray data, as means over restarts.

    log_odds    float64 [observers, sources, classes, classes]: log p(c | x) - log p(d | x) on the images that each
                source made of class c (first). Over all d at once this would be LiRA's logit margin, log p(c) -
                log(1 - p(c)); class by class it says what else the images would be taken for
    confidence  float64 [observers, sources, classes]: p(c | x)
    """

    log_odds: NDArray[np.float64]
    confidence: NDArray[np.float64]


def recognise(
    observers: Sequence[Classifier], images: Tensor, advance: Callable[[], None] = lambda: None
) -> Recognition:
    """Asks every observer about gray data, float32 [sources, classes, restarts, C, H, W] in [0, 1].

    `advance` is called once per observer. Deterministic, and a figure does not depend on which other observers and
    sources are asked.
    """
    found = []
    for answer in each(lambda observer: _ask(observer, images), observers):
        found.append(answer)
        advance()
    return Recognition(*(np.stack(part) for part in zip(*found, strict=True)))


def _ask(observer: Classifier, images: Tensor) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """-> log-odds [sources, classes, classes] and confidence [sources, classes] of one observer."""
    # Source by source: where torch answers, last bits depend on what else is in a batch.
    logits = torch.stack([observer.logits(source.flatten(0, 1)).cpu().double() for source in images])
    logits = logits.view(*images.shape[:3], -1)
    own = torch.arange(images.shape[1])
    confidence = logits.softmax(dim=-1)[:, own, :, own].mean(dim=2).T
    mean = logits.mean(dim=2)
    log_odds = mean[:, own, own][:, :, None] - mean
    return log_odds.numpy(), confidence.numpy()
