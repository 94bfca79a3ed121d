"""Small occlusions of images: one square of one colour, at every place in turn.

What an occlusion changes says what a model looks at. A model that has learnt a shortcut or a trigger shows it where the
occlusion lies on it, and the same image without an occlusion is the comparison. The idea is the sliding square of
Zeiler and Fergus ("Visualizing and Understanding Convolutional Networks", ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

OCCLUSION_COLOURS = {"white occlusions": 1.0, "black occlusions": 0.0}
PARTS = 9  # the side of an occlusion is a ninth of the image's shorter side: 3 pixels of 28


def occlude(images: Tensor, colour: str) -> Iterator[Tensor]:
    """Yields, for each row of places from top to bottom, float32 [places, N, C, H, W] in [0, 1].

    images  float32 [N, C, H, W] in [0, 1]
    colour  one of OCCLUSION_COLOURS

    Places run from left to right. They cover the image from edge to edge, evenly and without gaps. They overlap where
    the side of the image is not a multiple of the occlusion's.
    """
    height, width = images.shape[2:]
    side = max(1, round(min(height, width) / PARTS))
    for top in _starts(height, side):
        starts = _starts(width, side)
        row = images.repeat(len(starts), 1, 1, 1, 1)
        for place, left in zip(row, starts, strict=True):
            place[..., top : top + side, left : left + side] = OCCLUSION_COLOURS[colour]
        yield row


def _starts(length: int, side: int) -> list[int]:
    count = -(-length // side)
    return [round(i * (length - side) / max(1, count - 1)) for i in range(count)]
