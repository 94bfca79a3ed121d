"""Transforms of gray data: how it is shown to a model, plain or changed in ways that any image may be changed.

A model may still recognise a class, but by something else: mirrored, darker, or by a spot in a corner. Its responses to
transformed images show that. The transforms are the usual ones of corruption and occlusion tests, at one fixed strength
each (Hendrycks and Dietterich, "Benchmarking Neural Network Robustness to Common Corruptions and Perturbations", ICLR
2019; Zeiler and Fergus, "Visualizing and Understanding Convolutional Networks", ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from numpy.random import Generator, Philox
from torch import Tensor
from torch.nn import functional as F

from pydrift.data.rotation import rotate

_NOISE_SEED = 0x5EED  # the same noise for every model and audit
_SIGMA = 0.25


def apply_transform(name: str, images: Tensor) -> Tensor:
    """Images float32 [..., C, H, W] in [0, 1], changed by one of TRANSFORMS; shape and range stay. Deterministic."""
    return TRANSFORMS[name](images.flatten(0, -4)).view_as(images).clamp(0, 1)


def _add_noise(x: Tensor) -> Tensor:
    noise = Generator(Philox(_NOISE_SEED)).standard_normal(tuple(x.shape), dtype=np.float32)
    return x + _SIGMA * torch.from_numpy(noise)


def _blur(x: Tensor) -> Tensor:
    return F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="replicate"), 3, stride=1)


def _cover(x: Tensor, value: float, rows: tuple[float, float], columns: tuple[float, float]) -> Tensor:
    """Covers the part between these shares of the height and of the width with one value."""
    x = x.clone()
    (top, bottom), (left, right) = (
        [round(share * side) for share in shares] for shares, side in zip((rows, columns), x.shape[2:], strict=True)
    )
    x[..., top:bottom, left:right] = value
    return x


_FIRST, _LAST, _MIDDLE = (0.0, 0.25), (0.75, 1.0), (1 / 3, 2 / 3)

TRANSFORMS: dict[str, Callable[[Tensor], Tensor]] = {
    "plain": lambda x: x,
    "mirrored": lambda x: x.flip(-1),
    "upside down": lambda x: x.flip(-2),
    "turned left": partial(rotate, degrees=20),
    "turned right": partial(rotate, degrees=-20),
    "darker": lambda x: 0.5 * x,
    "lighter": lambda x: 0.5 + 0.5 * x,
    "noisy": _add_noise,
    "blurred": _blur,
    "white top left": partial(_cover, value=1.0, rows=_FIRST, columns=_FIRST),
    "white top right": partial(_cover, value=1.0, rows=_FIRST, columns=_LAST),
    "white bottom left": partial(_cover, value=1.0, rows=_LAST, columns=_FIRST),
    "white bottom right": partial(_cover, value=1.0, rows=_LAST, columns=_LAST),
    "white middle": partial(_cover, value=1.0, rows=_MIDDLE, columns=_MIDDLE),
    "black middle": partial(_cover, value=0.0, rows=_MIDDLE, columns=_MIDDLE),
}
