"""Reads CIFAR-10's python batches. They are the only pickles that pydrift reads, and it calls nothing they name."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.files import read_file
from pydrift.core.limits import MAX_CIFAR_BATCH
from pydrift.core.pickles import Made, UnknownName, read_pickle
from pydrift.data.images import LabelledImages, check_images, check_labels

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_ROW = 3 * 32 * 32
_ARRAY = ("_reconstruct", "ndarray", "dtype")  # of modules of numpy: what makes an array, its argument, and its type


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
    raw = read_file(path, MAX_CIFAR_BATCH)
    try:
        batch = read_pickle(raw, _is_array)
        if not isinstance(batch, dict) or not {b"data", b"labels"} <= batch.keys():
            raise ValueError("it is not a dictionary with data and labels")
        rows, labels = _rows(batch[b"data"]), batch[b"labels"]
        if not isinstance(labels, list) or not all(type(label) is int for label in labels):
            raise ValueError("its labels are not a list of integers")
        if len(rows) != len(labels):
            raise ValueError(f"{len(rows)} images but {len(labels)} labels")
    except UnknownName as error:
        raise InputRefused(f"{path}: not a CIFAR-10 batch: {error}, which no CIFAR-10 batch does") from error
    except ValueError as error:
        raise InputRefused(f"{path}: not a CIFAR-10 batch: {error}") from error
    return rows, check_labels(np.array(labels, np.int64), CLASSES, str(path))


def _rows(data: Any) -> np.ndarray:
    """uint8 [n, 3072]. ValueError: the data is anything else."""
    match data:
        case Made(state=(_, (int(count), int(width)), Made(arguments=(code, *_)), False, bytes(pixels))):
            if code in ("u1", b"u1") and width == _ROW and count * _ROW == len(pixels):
                return np.frombuffer(pixels, np.uint8).reshape(count, _ROW)
    raise ValueError("its data is not an array of unsigned bytes [n, 3072]")


def _is_array(name: str) -> bool:
    return name.startswith("numpy.") and name.rpartition(".")[2] in _ARRAY
