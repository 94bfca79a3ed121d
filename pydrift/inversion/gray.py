"""Gray data: images that an inversion attack makes of the classes of a model."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class GrayData:
    """Inverted images of one model: what each class looks like to it.

    images      float32 [classes, restarts, C, H, W] in [0, 1]
    confidence  float32 [classes, restarts]  the inverted model's own probability of the class at the end
    steps       int32   [classes, restarts]  ascent steps taken before the stop rule held
    """

    images: NDArray[np.float32]
    confidence: NDArray[np.float32]
    steps: NDArray[np.int32]

    def __eq__(self, other: object) -> bool:
        """Equal arrays, so that reports can be compared."""
        return isinstance(other, GrayData) and all(map(np.array_equal, vars(self).values(), vars(other).values()))

    def to_npz(self) -> bytes:
        """The three arrays as a compressed npz file."""
        buffer = io.BytesIO()
        np.savez_compressed(buffer, images=self.images, confidence=self.confidence, steps=self.steps)
        return buffer.getvalue()

    def to_png(self, pixels_per_image: int = 56) -> bytes:
        """A picture with one row per class and one column per restart, small images scaled up by a whole factor."""
        from PIL import Image

        classes, restarts, channels, height, width = self.images.shape
        scale = max(1, pixels_per_image // max(height, width))
        gap = 2
        tiles = np.pad(
            self.images.repeat(scale, axis=3).repeat(scale, axis=4),
            [(0, 0), (0, 0), (0, 0), (0, gap), (0, gap)],
            constant_values=1.0,
        )
        rows, columns = classes * tiles.shape[3], restarts * tiles.shape[4]
        grid = tiles.transpose(0, 3, 1, 4, 2).reshape(rows, columns, channels)
        picture = Image.fromarray((grid * 255).round().astype(np.uint8).squeeze())
        buffer = io.BytesIO()
        picture.save(buffer, "PNG")
        return buffer.getvalue()
