"""Small marks on images, one at a time, at every place.

What a mark changes says what a model looks at. A model that has learnt a shortcut or a trigger gives it away where the
mark lies on it, while the same image without a mark, from which everything else drops out, is the comparison. The idea
is the sliding square of Zeiler and Fergus ("Visualizing and Understanding Convolutional Networks", ECCV 2014).
"""

from __future__ import annotations

from collections.abc import Iterator

from torch import Tensor

OCCLUSION_COLOURS = {"white marks": 1.0, "black marks": 0.0}
PARTS = 9  # of the shorter side of the image, one of which is a mark's side: 3 pixels of 28


def occlude(images: Tensor, colour: str) -> Iterator[Tensor]:
    """float32 [N, C, H, W] in [0, 1] with one square mark of a colour of OCCLUSION_COLOURS.

    Yields [places, N, C, H, W] for each row of places from top to bottom, places from left to right. They lie from edge
    to edge, evenly and without gaps, and overlap where the side is not a multiple of a mark's.
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
