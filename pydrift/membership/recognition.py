"""How strongly each model recognises each model's gray data: the measurements that the verdict is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.classifier import Classifier
from pydrift.gray import GrayData
from pydrift.membership.signals import SIGNALS
from pydrift.membership.statistics import measure


@dataclass(frozen=True)
class Recognition:
    """Membership signals of gray data, as statistics over restarts.

    mean, std  float64 [signals, observers, sources, classes]: SIGNALS of observer o on the gray data that was made of
               source m, class by class
    """

    mean: NDArray[np.float64]
    std: NDArray[np.float64]

    def __getitem__(self, signal: str) -> NDArray[np.float64]:
        """The mean of one signal: [observers, sources, classes]."""
        return self.mean[list(SIGNALS).index(signal)]


def recognise(
    observers: Sequence[Classifier], sources: Sequence[GrayData], advance: Callable[[], None] = lambda: None
) -> Recognition:
    """Asks every observer about every source's gray data. `advance` is called once per source.

    Deterministic, and a figure does not depend on which others are asked for: see `measure`.
    """
    means, stds = [], []
    for source in sources:
        classes, restarts = source.confidence.shape
        labels = torch.arange(classes).repeat_interleave(restarts)
        seen = measure(observers, torch.from_numpy(source.images).flatten(0, 1), labels)
        signals = np.stack([getattr(seen, name) for name in SIGNALS]).astype(np.float64)
        signals = signals.reshape(len(SIGNALS), len(observers), classes, restarts)
        means.append(signals.mean(axis=-1))
        stds.append(signals.std(axis=-1))
        advance()
    return Recognition(np.stack(means, axis=2), np.stack(stds, axis=2))
