"""What is kept of a block while it is trained, so that not all work of a killed worker is lost."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from pydrift.core.files import read_file, write_atomic
from pydrift.core.limits import MAX_ARTIFACT, MAX_EPOCHS
from pydrift.core.tensors import parse_sealed, sealed_bytes
from pydrift.training import Checkpoint

_EVERY_S = 30.0  # the least time between two checkpoints, so that short blocks write none
_SHARE = 20  # and at least so many times the time that writing the last one took
_SEAL = "pydrift.checkpoint"


class BlockCheckpoint:
    """A file with the newest checkpoint of a block; `of` names the block and the plan.

    A checkpoint of the same plan and block may come from any worker: training from it gives the same bits.
    """

    def __init__(self, file: Path, of: str) -> None:
        self._file, self._of, self._due = file, of, time.monotonic() + _EVERY_S

    def load(self) -> Checkpoint | None:
        """The checkpoint in the file; None if there is none. A damaged or foreign one is also None, with a warning."""
        if not self._file.exists():
            return None
        try:
            about, tensors = parse_sealed(_SEAL, read_file(self._file, MAX_ARTIFACT))
            if about != {"of": self._of}:
                raise ValueError("it is of another block or plan")
            epoch = int(tensors.pop("epoch"))
            if not 0 <= epoch <= MAX_EPOCHS:
                raise ValueError(f"it is of epoch {epoch}")
            return Checkpoint(epoch=epoch, **tensors)
        except Exception as error:  # the parsers raise errors of many types
            warnings.warn(f"{self._file}: unreadable ({error}); the block is trained from its start", stacklevel=2)
            return None

    def __call__(self, state: Checkpoint) -> None:
        """Writes the state if it is time to. A full disk does not end the training; only the checkpoint is lost."""
        began = time.monotonic()
        if began < self._due:
            return
        tensors = {
            "epoch": torch.tensor(state.epoch),
            "parameters": state.parameters,
            "first_moment": state.first_moment,
            "second_moment": state.second_moment,
        }
        with suppress(OSError):
            write_atomic(self._file, sealed_bytes(_SEAL, {"of": self._of}, tensors))
        ended = time.monotonic()
        self._due = ended + max(_EVERY_S, _SHARE * (ended - began))
