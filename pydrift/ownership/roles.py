"""What each private and public image of a dataset inference is for: no image has two uses."""

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
    """Indices into the private and the public images; a pure function of their numbers, the settings and the seed.

    private_asked, public_asked    what suspects are asked about: `samples`, and PUBLIC_PER_PRIVATE times as many
    private_fitted, public_fitted  what regressors learn from, equally many
    reference_pool, independent_pool  public images, of which benign models are trained on halves
    """

    private_asked: Indices
    private_fitted: Indices
    public_asked: Indices
    public_fitted: Indices
    reference_pool: Indices
    independent_pool: Indices

    MIN_FITTED: ClassVar[int] = 20
    PUBLIC_PER_PRIVATE: ClassVar[int] = 2  # these cost no secret

    @classmethod
    def of(cls, private: int, public: int, samples: int, fit_on: int, seed: int) -> Roles:
        """InputRefused where the images are too few; at most a quarter of the public ones go to the regressors."""
        asked = cls.PUBLIC_PER_PRIVATE * samples
        needed = asked + cls.MIN_FITTED + 2 * _SMALLEST_POOL
        fitted = min(fit_on, private - samples, (public - asked) // 4, public - asked - 2 * _SMALLEST_POOL)
        if fitted < cls.MIN_FITTED:
            raise InputRefused(
                f"{samples} samples need {samples + cls.MIN_FITTED} private images and {needed} public ones at least, "
                f"got {private} and {public}"
            )
        pool = min((public - asked - fitted) // 2, 2 * private)  # so that halves are as large as the victim's set
        random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.OWNERSHIP_SPLIT)))
        ours, theirs = random.permutation(private), random.permutation(public)
        first = asked + fitted
        return cls(
            private_asked=ours[:samples],
            private_fitted=ours[samples : samples + fitted],
            public_asked=theirs[:asked],
            public_fitted=theirs[asked:first],
            reference_pool=np.sort(theirs[first : first + pool]),
            independent_pool=np.sort(theirs[first + pool : first + 2 * pool]),
        )
