"""Which reference images a shadow sees: a pure function of (seed, number of images, number of the shadow)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed


@dataclass(frozen=True)
class Draw:
    """Which reference images shadow k sees: a pure function of (seed, number of images, k).

    kind  "halves"     a random half; shadows 2j and 2j+1 see complementary ones, so that with an even number of shadows
                       every image is a member of exactly half of them: what membership attacks need
          "subset"     `size` images without replacement
          "bootstrap"  `size` images with replacement
    """

    kind: str
    size: int = 0  # of "subset" and "bootstrap"

    def __post_init__(self) -> None:
        if self.kind not in ("halves", "subset", "bootstrap") or (self.kind != "halves") != (self.size > 0):
            raise UsageError(f"no such draw of reference images: {self.kind!r} of size {self.size}")

    @classmethod
    def parse(cls, text: str) -> Draw:
        """The draw that `halves`, `subset:SIZE` or `bootstrap:SIZE` writes. UsageError on anything else."""
        kind, _, size = text.partition(":")
        if size and not size.isdecimal():
            raise UsageError(f"a draw is halves, subset:SIZE or bootstrap:SIZE, got {text!r}")
        return cls(kind, int(size or 0))

    def indices(self, seed: int, images: int, k: int) -> NDArray[np.int64]:
        """The drawn indices into the reference data, int64, ascending (a bootstrap repeats some)."""
        stream = k // 2 if self.kind == "halves" else k
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.SHADOW_DRAW, stream)))
        if self.kind == "bootstrap":
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
        if self.kind == "halves":
            return f"complementary halves of {images} images"
        how = "with replacement (bootstrap)" if self.kind == "bootstrap" else "without replacement"
        return f"{self.size} of {images} images {how}"


def update_draw(images: int, base_size: int | None, size: int | None = None, update_mode: str = "retrain") -> Draw:
    """The draw that makes shadows stray as benign updates do of a base that saw `base_size` images, None: all.

    `size` images if that is given, else as many as the base saw: without replacement where the reference data holds
    more, else a bootstrap. But of a retrained shadow a third of the data at most, unless `size` says otherwise: around
    what all N images teach, one of s of them strays with a variance of 1/s - 1/N, in units of one image's, a update
    of N fresh ones around a base of these N with 2/N. The two are equal at s = N/3; a bootstrap of N strays with 1/N.
    (A fine-tuned update has the base's share in common with its shadows.)
    """
    if size is None and update_mode == "retrain":
        return Draw("subset", max(1, min(base_size or images, images // 3)))
    size = size or base_size or images
    return Draw("subset", size) if size < images else Draw("bootstrap", size)
