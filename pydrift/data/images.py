"""LabelledImages, the one form that all data takes, and the checks before it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.core.errors import InputRefused
from pydrift.core.limits import MAX_CLASSES
from pydrift.core.tensors import tensors_digest

_ROUNDING = 1e-4  # by so much, values may lie outside [0, 1]: resizing and colour conversion round; they are clipped


@dataclass(frozen=True, eq=False)
class LabelledImages:
    """N images and their labels.

    x            float32 [N, C, H, W] in [0, 1]
    y            int64 [N] in 0..num_classes-1
    class_names  one for each class, also for classes without an image
    source       where the images come from, in words
    """

    x: Tensor
    y: Tensor
    class_names: tuple[str, ...]
    source: str

    def __len__(self) -> int:
        return len(self.x)

    @property
    def num_classes(self) -> int:
        return len(self.class_names)

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """(C, H, W) of an image."""
        channels, height, width = self.x.shape[1:]
        return channels, height, width

    @cached_property
    def sha256(self) -> str:
        """SHA-256 over dtypes, shapes and bytes of x and y. It is computed at the first use."""
        return tensors_digest({"x": self.x, "y": self.y})

    def subset(self, indices: Tensor | NDArray[Any] | Sequence[int]) -> LabelledImages:
        """The images at `indices` (integers [M], or a boolean mask [N]), in that order. All class names stay."""
        chosen = torch.as_tensor(indices)
        chosen = chosen if chosen.dtype == torch.bool else chosen.long()
        return LabelledImages(self.x[chosen], self.y[chosen], self.class_names, self.source)


def as_images(data: Any, class_names: Sequence[str] | None = None) -> LabelledImages:
    """Turns arrays, tensors, data loaders and data sets into LabelledImages.

    data         LabelledImages (returned as they are), a tuple (x, y) of tensors or arrays, or pairs (x, y) of single
                 samples or batches: a DataLoader, a Dataset, a list. x is [N, H, W], [N, C, H, W] or [N, H, W, C] with
                 1 or 3 channels, uint8 in 0..255 or float in [0, 1]; a single sample has no N. y is integer [N]. Values
                 that lie outside [0, 1] by up to 1e-4 are clipped
    class_names  one for each class; default: "0", "1", ... up to the largest label

    InputRefused: a wrong shape, label or value (with the index of the image), no images, or images of one class only.
    """
    if isinstance(data, LabelledImages):
        return data
    if isinstance(data, tuple) and len(data) == 2 and isinstance(data[0], Tensor | np.ndarray):
        x, y = _array(data[0]), _array(data[1])
    else:
        x, y = _collect(data)
    return check_images(x, y, class_names, "data")


def check_images(x: np.ndarray, y: np.ndarray, class_names: Sequence[str] | None, source: str) -> LabelledImages:
    """Checks x and y, as `as_images` describes them. All data passes here; `source` begins each error message."""
    if x.shape[:1] == (0,):
        raise InputRefused(f"{source}: no images")
    pixels = _scaled(_channels_first(x, source), source)
    labels = check_labels(y, class_names, source)
    if len(labels) != len(pixels):
        raise InputRefused(f"{source}: {len(pixels)} images but {len(labels)} labels")
    names = tuple(class_names) if class_names is not None else tuple(str(i) for i in range(int(labels.max()) + 1))
    if labels.min() == labels.max():
        raise InputRefused(
            f"{source}: all {len(labels)} images are of class {names[labels[0]]}; two classes are needed"
        )
    return LabelledImages(torch.from_numpy(pixels), torch.from_numpy(labels), names, source)


def check_labels(y: np.ndarray, class_names: Sequence[str] | None, source: str) -> np.ndarray:
    """Labels as int64 [N]. InputRefused: not integers, or outside the classes (without names: outside 0..9,999)."""
    if y.ndim != 1 or y.dtype.kind not in "iu":
        raise InputRefused(f"{source}: labels must be integers [N], got {y.dtype} {list(y.shape)}")
    limit = MAX_CLASSES if class_names is None else len(class_names)
    wrong = np.flatnonzero((y < 0) | (y >= limit))
    if len(wrong):
        from_one = "; its labels begin at 1: subtract 1 from all" if y.min() == 1 and y.max() == limit else ""
        raise InputRefused(f"{source}: image {wrong[0]} has the label {y[wrong[0]]}, outside 0..{limit - 1}{from_one}")
    return y.astype(np.int64)


def _channels_first(x: np.ndarray, source: str) -> np.ndarray:
    if x.ndim == 3:
        return x[:, None]
    first, last = (x.ndim == 4 and x.shape[axis] in (1, 3) for axis in (1, 3))
    if first and last:
        raise InputRefused(f"{source}: images of shape {list(x.shape[1:])} can have their channels first or last")
    if not first and not last:
        raise InputRefused(
            f"{source}: images must be [N, H, W], [N, C, H, W] or [N, H, W, C] with 1 or 3 channels, "
            f"got {list(x.shape)}"
        )
    return x if first else x.transpose(0, 3, 1, 2)


def _scaled(x: np.ndarray, source: str) -> np.ndarray:
    """float32 in [0, 1], contiguous; it never shares memory with x."""
    if x.size == 0:
        raise InputRefused(f"{source}: images without pixels, shape {list(x.shape)}")
    if x.dtype == np.uint8:
        return np.divide(x, np.float32(255), dtype=np.float32, order="C")
    if x.dtype.kind != "f":
        raise InputRefused(f"{source}: images must be uint8 or float, got {x.dtype}")
    low, high = x.min(axis=(1, 2, 3)), x.max(axis=(1, 2, 3))
    near = (low >= -_ROUNDING) & (high <= 1 + _ROUNDING)
    wrong = np.flatnonzero(~near)  # a NaN compares false, so this finds it, too
    if len(wrong):
        index = wrong[0]
        if not (np.isfinite(low[index]) and np.isfinite(high[index])):
            raise InputRefused(f"{source}: image {index} has a value that is not finite")
        raise InputRefused(f"{source}: image {index} has values in [{low[index]:g}, {high[index]:g}], outside [0, 1]")
    copied = np.array(x, dtype=np.float32, order="C")
    return np.clip(copied, 0, 1, out=copied)


def _array(values: Any) -> np.ndarray:
    if not isinstance(values, Tensor):
        return np.asarray(values)
    values = values.detach().cpu()
    return (values.float() if values.is_floating_point() else values).numpy()  # numpy has no bfloat16


def _items(data: Any) -> Iterator[Any]:
    if not isinstance(data, Iterable) and hasattr(data, "__len__") and hasattr(data, "__getitem__"):
        return (data[i] for i in range(len(data)))  # a map-style Dataset may never raise IndexError
    try:
        return iter(data)
    except TypeError as error:
        raise InputRefused(f"data: {type(data).__name__} is neither a pair (x, y) nor an iterable of pairs") from error


def _collect(data: Any) -> tuple[np.ndarray, np.ndarray]:
    """Joins samples or batches into x [N, ...] and y [N]."""
    xs: list[np.ndarray] = []
    ys: list[np.ndarray] = []
    count = 0
    for item in _items(data):
        if not isinstance(item, tuple | list) or len(item) != 2:
            raise InputRefused(f"data: item {len(xs)} is a {type(item).__name__}, not a pair (x, y)")
        x, y = _array(item[0]), _array(item[1])
        if y.ndim == 0:
            x, y = x[None], y[None]
        if x.ndim < 3 or len(x) != len(y):
            raise InputRefused(f"data: item {len(xs)} pairs images {list(x.shape)} with labels {list(y.shape)}")
        if xs and (x.shape[1:], x.dtype) != (xs[0].shape[1:], xs[0].dtype):
            raise InputRefused(
                f"data: image {count} is {x.dtype} {list(x.shape[1:])}, "
                f"the first is {xs[0].dtype} {list(xs[0].shape[1:])}"
            )
        xs.append(x)
        ys.append(y)
        count += len(x)
    if not xs:
        raise InputRefused("data: no images")
    return np.concatenate(xs), np.concatenate(ys)
