"""What is kept of a block while it is trained, so that the work of a killed worker is not all done again."""

from __future__ import annotations

import time
import warnings
from contextlib import suppress
from pathlib import Path

import torch

from pydrift.core.files import read_file, write_atomic
from pydrift.core.tensors import parse_sealed, sealed_bytes
from pydrift.training import Checkpoint

_EVERY_S = 30.0  # between two that are written, so that short blocks write none
_SHARE = 20  # and so many times as long as it took to write the last one
_MAX_BYTES = 64 << 30
_SEAL = "pydrift.checkpoint"


class BlockCheckpoint:
    """The newest checkpoint of a block in a file; `of` says of which block of which plan.

    A checkpoint of the same plan and block is good whoever wrote it: training goes on from it to the same bits.
    """

    def __init__(self, file: Path, of: str) -> None:
        self._file, self._of, self._due = file, of, time.monotonic() + _EVERY_S

    def load(self) -> Checkpoint | None:
        """The one that was kept; None if there is none, or with a warning if it is damaged or foreign."""
        if not self._file.exists():
            return None
        try:
            about, tensors = parse_sealed(_SEAL, read_file(self._file, _MAX_BYTES))
            if about != {"of": self._of}:
                raise ValueError("it is of another block or plan")
            return Checkpoint(epoch=int(tensors.pop("epoch")), **tensors)
        except Exception as error:  # whatever a damaged file makes the parsers say
            warnings.warn(f"{self._file}: unreadable ({error}); the block is trained from its start", stacklevel=2)
            return None

    def __call__(self, state: Checkpoint) -> None:
        """Keeps the state if it is time to. A full disk is no reason to end: what is lost is only the checkpoint."""
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
