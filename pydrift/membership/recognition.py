"""How strongly each model recognises each model's gray data: the measurements that the verdict is made of."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.classifier import Classifier
from pydrift.gray import GrayData
from pydrift.membership.signals import confidence, logit_margin, loss
from pydrift.parallel import each

SIGNALS = {"margin": logit_margin, "confidence": confidence, "loss": loss}
_BATCH = 512


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
    """Asks every observer about every source's gray data. `advance` is called once per observer.

    Deterministic: each observer answers on one thread and the images are cut into fixed batches, so a figure does not
    depend on which others are asked for.
    """
    means, stds = [], []
    for signals in each(lambda observer: np.stack([_signals(observer, gray) for gray in sources]), observers):
        # signals: [sources, signals, classes, restarts]
        means.append(signals.mean(axis=-1))
        stds.append(signals.std(axis=-1))
        advance()
    return Recognition(np.stack(means).transpose(2, 0, 1, 3), np.stack(stds).transpose(2, 0, 1, 3))


def _signals(observer: Classifier, gray: GrayData) -> NDArray[np.float64]:
    """float64 [signals, classes, restarts]."""
    classes, restarts = gray.confidence.shape
    x = torch.from_numpy(gray.images).flatten(0, 1)
    labels = torch.arange(classes, device=observer.device).repeat_interleave(restarts)
    logits = torch.cat([observer.logits(part.to(observer.device)) for part in x.split(_BATCH)])
    signals = torch.stack([signal(logits, labels) for signal in SIGNALS.values()])
    return signals.view(len(SIGNALS), classes, restarts).double().cpu().numpy()
