"""Inverts many models side by side, in the way that suits the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydrift.core.parallel import each
from pydrift.inversion.base import InversionAttack
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier


def invert_models(
    attack: InversionAttack, models: Sequence[Classifier], restarts: int, seed: int
) -> Iterator[GrayData]:
    """Yields the gray data of each model, in order, as soon as it is ready; the same for any number of threads.

    On CUDA all models share one call, since a single model does not keep the GPU busy. On the CPU there is one model
    per thread, except that a single model which is inverted natively gets all threads.
    """
    if not models:
        return
    alone = len(models) == 1 and models[0].fused is not None
    if models[0].device.type == "cuda":
        yield from attack.invert_all(models, restarts, seed)
    elif alone:
        yield attack.invert(models[0], restarts, seed)
    else:
        yield from each(lambda model: attack.invert(model, restarts, seed), models)
