"""Images of simple shapes at random places: curves, rectangles and ellipses.

Gray data show what the shadows take for a class. They cannot show what a candidate takes for it besides: images that
benign models would assign to another class. Simple shapes ask for that, without any data.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from numpy.random import Generator, Philox
from numpy.typing import NDArray
from torch import Tensor

COUNT = 192  # images of a kind: enough for their mean to be the same in any draw
_SEED = 0x54A9E5  # the same shapes for every model and audit

Drawing = NDArray[np.float32]
"""[COUNT, H, W] in [0, 1]: how much of the shape's colour a pixel has."""


@cache
def draw_shapes(kind: str, shape: tuple[int, int, int]) -> Tensor:
    """Images of one kind of SHAPE_KINDS: float32 [COUNT, C, H, W] in [0, 1].

    shape  (C, H, W). Where C is 1 shapes are white on black, else of a random colour on another.

    Deterministic: the same images in every audit.
    """
    rng = Generator(Philox([_SEED, list(SHAPE_KINDS).index(kind)]))
    ink = SHAPE_KINDS[kind](rng, shape[1], shape[2])[:, None]
    if shape[0] > 1:
        paint, ground = rng.random((2, COUNT, shape[0], 1, 1), np.float32)
        ink = ink * paint + (1 - ink) * ground
    return torch.from_numpy(ink)


def _curves(rng: Generator, height: int, width: int, count: int, pen: float) -> Drawing:
    """Quadratic Bezier curves, drawn with a soft round pen; `pen` is its deviation as a share of the shorter side."""
    corners = rng.uniform(0.1, 0.9, (3, COUNT * count, 2)) * [height, width]
    steps = min(3 * max(height, width), 200)
    ink = np.zeros((COUNT * count, height, width), np.float32)
    for t in np.linspace(0, 1, steps):
        y, x = ((1 - t) ** 2 * corners[0] + 2 * t * (1 - t) * corners[1] + t**2 * corners[2]).T
        down, across = (
            np.exp(-(((np.arange(length) - at[:, None]) / (pen * min(height, width))) ** 2) / 2).astype(np.float32)
            for length, at in ((height, y), (width, x))
        )
        np.maximum(ink, down[:, :, None] * across[:, None, :], out=ink)
    return ink.reshape(COUNT, count, height, width).max(axis=1)


def _rectangles(rng: Generator, height: int, width: int) -> Drawing:
    rows, columns = (_between(np.sort(rng.integers(0, n, (COUNT, 2))), n) for n in (height, width))
    return _shaded(rng, rows[:, :, None] & columns[:, None, :])


def _between(ends: NDArray[np.int64], length: int) -> NDArray[np.bool_]:
    at = np.arange(length)
    return (ends[:, :1] <= at) & (at <= ends[:, 1:])


def _ellipses(rng: Generator, height: int, width: int) -> Drawing:
    middle, radius = rng.uniform(0.3, 0.7, (COUNT, 2)), rng.uniform(0.15, 0.45, (COUNT, 2))
    down, across = (
        ((np.arange(length) / length - middle[:, i, None]) / radius[:, i, None]) ** 2
        for i, length in enumerate((height, width))
    )
    return _shaded(rng, down[:, :, None] + across[:, None, :] < 1)


def _shaded(rng: Generator, inside: NDArray[np.bool_]) -> Drawing:
    return inside.astype(np.float32) * rng.uniform(0.3, 1, (COUNT, 1, 1)).astype(np.float32)


SHAPE_KINDS: dict[str, Callable[[Generator, int, int], Drawing]] = {
    "a thin curve": partial(_curves, count=1, pen=1 / 28),
    "three thin curves": partial(_curves, count=3, pen=1 / 28),
    "two thick curves": partial(_curves, count=2, pen=1 / 12),
    "rectangles": _rectangles,
    "ellipses": _ellipses,
}
