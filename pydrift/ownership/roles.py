"""What each private and public image of a dataset inference is for: no image has two uses."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.errors import InputRefused
from pydrift.noise import Phase, derived_seed

Indices = NDArray[np.int64]

_SHARE_DRAWN = 2 / 3  # of a pool, at most: models that all saw the same images would be more alike than honest ones are
_FEWEST_DRAWN = 50


@dataclass(frozen=True)
class Roles:
    """Indices into the private and the public images; a pure function of their numbers, the settings and the seed.

    private_asked, public_asked    what suspects are asked about, `samples` of each
    private_fitted, public_fitted  what regressors learn from, equally many
    reference_pool, independent_pool  public images of which honest models are trained on draws
    """

    private_asked: Indices
    private_fitted: Indices
    public_asked: Indices
    public_fitted: Indices
    reference_pool: Indices
    independent_pool: Indices

    MIN_FITTED: ClassVar[int] = 20

    @classmethod
    def of(cls, private: int, public: int, samples: int, fit_on: int, seed: int) -> Roles:
        """InputRefused where the images are too few; at most a quarter of the public ones go to the regressors."""
        fitted = min(fit_on, private - samples, (public - samples) // 4)
        pool = (public - samples - fitted) // 2
        if fitted < cls.MIN_FITTED or int(_SHARE_DRAWN * pool) < _FEWEST_DRAWN:
            needed = samples + max(4 * cls.MIN_FITTED, cls.MIN_FITTED + 2 * ceil(_FEWEST_DRAWN / _SHARE_DRAWN))
            raise InputRefused(
                f"{samples} samples need {samples + cls.MIN_FITTED} private images and {needed} public ones at least, "
                f"got {private} and {public}"
            )
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.OWNERSHIP_SPLIT)))
        ours, theirs = random.permutation(private), random.permutation(public)
        first = samples + fitted
        return cls(
            private_asked=ours[:samples],
            private_fitted=ours[samples:first],
            public_asked=theirs[:samples],
            public_fitted=theirs[samples:first],
            reference_pool=np.sort(theirs[first : first + pool]),
            independent_pool=np.sort(theirs[first + pool :]),
        )

    def drawn(self, private: int) -> int:
        """Images that an honest model is trained on: as many as the victim, but at most two thirds of its pool."""
        return min(private, int(_SHARE_DRAWN * len(self.reference_pool)))
