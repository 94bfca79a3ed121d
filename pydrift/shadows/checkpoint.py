"""What is kept of a block while it is trained, so that the work of a killed worker is not all done again."""

from __future__ import annotations

import json
import time
import warnings
from contextlib import suppress
from pathlib import Path

import torch
from safetensors.torch import load as load_safetensors

from pydrift.core.store import read_file, safetensors_bytes, tensors_digest, write_atomic
from pydrift.training import Checkpoint

_EVERY_S = 30.0  # between two that are written, so that short blocks write none
_SHARE = 20  # and so many times as long as it took to write the last one
_MAX_BYTES = 64 << 30


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
            data = read_file(self._file, _MAX_BYTES)
            tensors = load_safetensors(data)
            known = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])["__metadata__"]
            if known != {"of": self._of, "sha256": tensors_digest(tensors)}:
                raise ValueError("its hash is not that of its content")
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
            metadata = {"of": self._of, "sha256": tensors_digest(tensors)}
            write_atomic(self._file, safetensors_bytes(tensors, metadata))
        ended = time.monotonic()
        self._due = ended + max(_EVERY_S, _SHARE * (ended - began))
