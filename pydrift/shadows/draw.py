"""Which reference images a shadow sees."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.core.limits import MAX_BOOTSTRAP
from pydrift.core.noise import Phase, derived_seed


@dataclass(frozen=True)
class Draw:
    """Which reference images shadow k sees: a pure function of (seed, number of images, k).

    kind  "halves"     a random half. Shadows 2j and 2j + 1 see complementary halves, so with an even number of shadows
                       each image is a member of exactly half of them, as membership attacks need
          "subset"     `size` images without replacement
          "bootstrap"  `size` images with replacement, at most 10 times as many as there are
    UsageError for another kind, or a size that does not fit the kind.
    """

    kind: str
    size: int = 0  # of "subset" and "bootstrap"

    def __post_init__(self) -> None:
        if self.kind not in ("halves", "subset", "bootstrap") or (self.kind != "halves") != (self.size > 0):
            raise UsageError(f"no such draw of reference images: {self.kind!r} of size {self.size}")

    @classmethod
    def parse(cls, text: str) -> Draw:
        """Reads "halves", "subset:SIZE" or "bootstrap:SIZE". UsageError for anything else."""
        kind, _, size = text.partition(":")
        if size and not size.isdecimal():
            raise UsageError(f"a draw is halves, subset:SIZE or bootstrap:SIZE, got {text!r}")
        return cls(kind, int(size or 0))

    def indices(self, seed: int, images: int, k: int) -> NDArray[np.int64]:
        """The indices of the drawn reference images, int64, ascending. A bootstrap repeats some of them."""
        stream = k // 2 if self.kind == "halves" else k
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.SHADOW_DRAW, stream)))
        if self.kind == "bootstrap":
            if self.size > MAX_BOOTSTRAP * images:
                raise UsageError(
                    f"cannot draw {self.size} images from {images} with replacement: "
                    f"the limit is {MAX_BOOTSTRAP * images}"
                )
            return np.sort(random.integers(0, images, self.size))
        order = random.permutation(images)
        if self.kind == "halves":
            return np.sort(order[: images // 2] if k % 2 == 0 else order[images // 2 :])
        if self.size > images:
            raise UsageError(f"cannot draw {self.size} of {images} images without replacement")
        return np.sort(order[: self.size])

    def members(self, seed: int, images: int, count: int) -> NDArray[np.bool_]:
        """Whether shadow k sees image i: bool [count, images]."""
        member = np.zeros((count, images), bool)
        for k in range(count):
            member[k, self.indices(seed, images, k)] = True
        return member

    def describe(self, images: int) -> str:
        """The draw from so many images in a few words."""
        if self.kind == "halves":
            return f"complementary halves of {images} images"
        how = "with replacement (bootstrap)" if self.kind == "bootstrap" else "without replacement"
        return f"{self.size} of {images} images {how}"


def update_draw(images: int, base_size: int | None, size: int | None = None, update_mode: str = "retrain") -> Draw:
    """The draw with which shadows differ from the base as much as benign updates do.

    images       N, the number of reference images
    base_size    how many images the base was trained on; None: all N
    size         how many images each shadow sees; None: as many as the base, and at most N/3 for "retrain"

    The draw is without replacement if the reference data holds more than `size` images, else a bootstrap. Why N/3: a
    model trained on s of the N images varies around one trained on all N with variance 1/s - 1/N. The unit is the
    variance of one image. An update trained on N fresh images varies around the base with 2/N. The two are equal at
    s = N/3. A bootstrap of N images would vary with 1/N only. A fine-tuned update shares the base's part with its
    shadows, so "finetune" needs no such limit.
    """
    if size is None and update_mode == "retrain":
        return Draw("subset", max(1, min(base_size or images, images // 3)))
    size = size or base_size or images
    return Draw("subset", size) if size < images else Draw("bootstrap", size)
