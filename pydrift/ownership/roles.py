"""The role of each private and public image in an ownership audit: no image has two."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from pydrift.core.errors import InputRefused
from pydrift.core.noise import Phase, derived_seed

Indices = NDArray[np.int64]

_SMALLEST_POOL = 80  # images


@dataclass(frozen=True)
class Roles:
    """Indices int64 [n] into the private and the public images: a pure function of their numbers, settings and seed.

    private_asked, public_asked       the images that suspects are asked about: `samples` private ones, and
                                      PUBLIC_PER_PRIVATE times as many public ones
    private_fitted, public_fitted     the images that the regressors learn from, equally many of both
    reference_pool, independent_pool  public images; reference and independent models are trained on halves of them
    """

    private_asked: Indices
    private_fitted: Indices
    public_asked: Indices
    public_fitted: Indices
    reference_pool: Indices
    independent_pool: Indices

    MIN_FITTED: ClassVar[int] = 20
    PUBLIC_PER_PRIVATE: ClassVar[int] = 2  # public images reveal no secret

    @classmethod
    def of(cls, private: int, public: int, samples: int, fit_on: int, seed: int) -> Roles:
        """Draws the roles of `private` and `public` images. At most a quarter of the public ones go to the regressors.

        InputRefused: too few images.
        """
        asked = cls.PUBLIC_PER_PRIVATE * samples
        needed = asked + cls.MIN_FITTED + 2 * _SMALLEST_POOL
        fitted = min(fit_on, private - samples, (public - asked) // 4, public - asked - 2 * _SMALLEST_POOL)
        if fitted < cls.MIN_FITTED:
            raise InputRefused(
                f"{samples} samples need {samples + cls.MIN_FITTED} private images and {needed} public images, "
                f"got {private} and {public}"
            )
        pool = min((public - asked - fitted) // 2, 2 * private)  # so that a half is at most as large as the private set
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.OWNERSHIP_SPLIT)))
        private_order, public_order = random.permutation(private), random.permutation(public)
        first = asked + fitted
        return cls(
            private_asked=private_order[:samples],
            private_fitted=private_order[samples : samples + fitted],
            public_asked=public_order[:asked],
            public_fitted=public_order[asked:first],
            reference_pool=np.sort(public_order[first : first + pool]),
            independent_pool=np.sort(public_order[first + pool : first + 2 * pool]),
        )
