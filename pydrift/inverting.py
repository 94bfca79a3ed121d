"""Gray data of many models, each piece a task of a run: a killed audit goes on where it was."""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from pydrift.answers import groups
from pydrift.classifier import Classifier
from pydrift.gray import GrayData
from pydrift.inversion import InversionAttack, invert_models
from pydrift.progress import Progress
from pydrift.store import RunFolder


def inverted(
    attack: InversionAttack,
    models: Sequence[Classifier],
    tasks: Sequence[str],
    restarts: int,
    seed: int,
    run: RunFolder,
    progress: Progress,
) -> tuple[list[GrayData], float | None]:
    """Gray data of each model, kept as a task of the run, and restart-steps per second if any had to be made."""
    gray = {}
    for task in tasks:
        if (saved := run.get(task)) is not None:
            gray[task] = GrayData(**{name: tensor.numpy() for name, tensor in saved.items()})
            progress.advance()
    missing = [task for task in tasks if task not in gray]
    made = invert_models(attack, [models[tasks.index(task)] for task in missing], restarts, seed)
    began, steps = time.perf_counter(), 0
    for task, images in zip(missing, made, strict=True):
        run.put(task, {name: torch.from_numpy(array) for name, array in vars(images).items()})
        gray[task] = images
        steps += int(images.steps.sum())
        progress.advance()
    rate = steps / (time.perf_counter() - began) if missing else None
    return [gray[task] for task in tasks], rate


def consensus_of(
    attack: InversionAttack,
    shadows: Sequence[Classifier],
    restarts: int,
    seed: int,
    run: RunFolder,
    progress: Progress,
) -> NDArray[np.float32]:
    """What each group of shadows takes the classes for, kept as tasks of the run."""
    made = groups(len(shadows))
    progress.phase("inverting groups of shadows", len(made))
    consensus = []
    for group, members in enumerate(made):
        saved = run.get(f"consensus/{group}")
        if saved is None:
            some = [shadows[k] for k in members]
            images = attack.consensus(some, max(1, restarts // 2), seed + group)
            saved = {"images": torch.from_numpy(images)}
            run.put(f"consensus/{group}", saved)
        consensus.append(saved["images"].numpy())
        progress.advance()
    return np.stack(consensus)
