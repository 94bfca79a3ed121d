"""Inversions that are kept as tasks of a run, so that a killed run goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.core.run_store import RunFolder
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
    """The gray data of each model, loaded from `run` where it is kept there, else made and kept.

    models, tasks  the classifiers, and the name of each one's task in the run
    advance        called once per model
    Also returns the restart-steps per second of this call; None if nothing had to be made.
    """
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
    name: str = "all",
) -> NDArray[np.float32]:
    """Consensus images of each group of classifiers: float32 [groups, classes, max(1, restarts // 2), C, H, W].

    They are kept in `run` under `name`, and `advance` is called once per group. Half the restarts are enough: there are
    several groups, and consensus images vary less than those of one model.
    """
    consensus = []
    for number, group in enumerate(groups):
        saved = run.get(f"consensus/{name}-{number}")
        if saved is None:
            saved = {"images": torch.from_numpy(attack.consensus(group, max(1, restarts // 2), seed + number))}
            run.put(f"consensus/{name}-{number}", saved)
        consensus.append(saved["images"].numpy())
        advance()
    return np.stack(consensus)
