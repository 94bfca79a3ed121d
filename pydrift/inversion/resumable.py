"""Gray data made once: each piece is kept as a task of a run, so that a killed run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.core.store import RunFolder
from pydrift.inversion import InversionAttack, invert_models
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import Classifier


def invert_resumable(
    attack: InversionAttack,
    models: Sequence[Classifier],
    restarts: int,
    seed: int,
    tasks: Sequence[str],
    run: RunFolder,
    advance: Callable[[], None],
) -> tuple[list[GrayData], float | None]:
    """Gray data of each model, and restart-steps per second if any had to be made. `advance` is called for each."""
    gray = {}
    for task in tasks:
        if (saved := run.get(task)) is not None:
            gray[task] = GrayData(**{name: tensor.numpy() for name, tensor in saved.items()})
            advance()
    missing = [task for task in tasks if task not in gray]
    made = invert_models(attack, [models[tasks.index(task)] for task in missing], restarts, seed)
    began, steps = time.perf_counter(), 0
    for task, images in zip(missing, made, strict=True):
        run.put(task, {name: torch.from_numpy(array) for name, array in vars(images).items()})
        gray[task] = images
        steps += int(images.steps.sum())
        advance()
    rate = steps / (time.perf_counter() - began) if missing else None
    return [gray[task] for task in tasks], rate


def consensus_images(
    attack: InversionAttack,
    groups: Sequence[Sequence[Classifier]],
    restarts: int,
    seed: int,
    run: RunFolder,
    advance: Callable[[], None],
) -> NDArray[np.float32]:
    """What each group takes the classes for: float32 [groups, classes, restarts / 2 (at least 1), C, H, W].

    Half the restarts of a model alone: there are several groups, and what they agree on varies less.
    """
    consensus = []
    for number, group in enumerate(groups):
        saved = run.get(f"consensus/{number}")
        if saved is None:
            saved = {"images": torch.from_numpy(attack.consensus(group, max(1, restarts // 2), seed + number))}
            run.put(f"consensus/{number}", saved)
        consensus.append(saved["images"].numpy())
        advance()
    return np.stack(consensus)
