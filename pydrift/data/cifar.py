"""Reads CIFAR-10's python batches. They are the only pickles that pydrift reads, and it calls nothing they name."""

from __future__ import annotations

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import read_file
from pydrift.data.images import LabelledImages, check_images, check_labels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_MAX_BATCH = 256 << 20
_ROW = 3 * 32 * 32


class _PickledArray:
    """Stands in for a pickled array. It keeps the state; numpy gets the bytes only after they are checked."""

    state: Any = None

    def __init__(self, *_: object) -> None:
        pass

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def rows(self) -> np.ndarray:
        """uint8 [n, 3072]. ValueError: the state is anything else."""
        match self.state:
            case (_, (int(count), int(width)), _PickledType("u1"), False, bytes(data)):
                if width == _ROW and count * _ROW == len(data):
                    return np.frombuffer(data, np.uint8).reshape(count, _ROW)
        raise ValueError("its data is not an array of unsigned bytes [n, 3072]")


class _PickledType:
    """Stands in for a pickled dtype. It keeps the type's code."""

    __match_args__ = ("code",)

    def __init__(self, code: str | bytes, *_: object) -> None:
        self.code = code.decode("latin1") if isinstance(code, bytes) else code

    def __setstate__(self, state: Any) -> None:
        pass  # byte order and the like, which mean nothing for bytes


class _BatchReader(pickle._Unpickler):
    """An unpickler that knows only the two classes above; it refuses any other name in a batch.

    The base is the pickle module's Python version: the C version grows its memo to an index that the file chooses.
    """

    def find_class(self, module: str, name: str) -> Any:
        known = {
            "_reconstruct": _PickledArray,  # numpy.core.multiarray, in numpy 2 numpy._core.multiarray
            "ndarray": None,  # only an argument of _reconstruct
            "dtype": _PickledType,
        }
        if module.split(".")[0] == "numpy" and name in known:
            return known[name]
        raise ValueError(f"it refers to {f'{module}.{name}'!a}, which no CIFAR-10 batch does")


def load_cifar10(folder: Path, split: str) -> LabelledImages:
    """CIFAR-10, 3x32x32, from `folder`/cifar-10-batches-py or from `folder` itself.

    UsageError: a file is missing. InputRefused: a file is damaged.
    """
    inner = folder / "cifar-10-batches-py"
    folder = inner if inner.is_dir() else folder
    names = ["test_batch"] if split == "test" else [f"data_batch_{i}" for i in range(1, 6)]
    for name in names:
        if not (folder / name).exists():
            raise UsageError(f"{folder}: {name} of CIFAR-10's python version is not there")
    batches = [_read_batch(folder / name) for name in names]
    x = np.concatenate([rows for rows, _ in batches]).reshape(-1, 3, 32, 32)
    return check_images(x, np.concatenate([labels for _, labels in batches]), CLASSES, f"{folder} ({split})")


def _read_batch(path: Path) -> tuple[np.ndarray, np.ndarray]:
    raw = read_file(path, _MAX_BATCH)
    try:
        batch = _BatchReader(io.BytesIO(raw), encoding="bytes").load()
        rows = batch[b"data"].rows()
        labels = np.array(batch[b"labels"])
        if len(rows) != len(labels):
            raise ValueError(f"{len(rows)} images but {len(labels)} labels")
    except Exception as error:  # a damaged pickle can raise anything
        raise InputRefused(f"{path}: not a CIFAR-10 batch: {error}") from error
    return rows, check_labels(labels, CLASSES, str(path))
