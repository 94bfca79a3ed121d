"""Many models inverted side by side, in the way that suits the device."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from pydrift.core.parallel import each
from pydrift.inversion.base import InversionAttack
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier


def invert_models(
    attack: InversionAttack, models: Sequence[Classifier], restarts: int, seed: int
) -> Iterator[GrayData]:
    """Gray data of each model, in order, as it gets ready; the same for any number of threads.

    On CUDA all models share one call, which a single one would not fill. On the CPU there is one model per thread; a
    single model that runs natively gets all threads.
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
