"""The settings of an ownership audit, checked before any model is loaded."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil

from pydrift.core.checks import check_seed
from pydrift.core.errors import UsageError
from pydrift.ownership.embeddings import Embedding
from pydrift.ownership.roles import Roles

MIN_SAMPLES, MIN_INDEPENDENTS, MIN_REFERENCES = 5, 10, 8


@dataclass(frozen=True)
class OwnershipSettings:
    """See `ownership_audit`. UsageError: a value is out of range, or no p can be as small as alpha."""

    embedding: Embedding
    samples: int
    fit_on: int
    independents: int
    references: int
    alpha: float
    seed: int

    def __post_init__(self) -> None:
        if not 0 < self.alpha < 1:
            raise UsageError(f"alpha must lie between 0 and 1, got {self.alpha:g}")
        least = {
            "samples": MIN_SAMPLES,
            "fit_on": Roles.MIN_FITTED,
            "independents": MIN_INDEPENDENTS,
            "references": MIN_REFERENCES,
        }
        for name, bound in least.items():
            if getattr(self, name) < bound:
                raise UsageError(f"{name} must be at least {bound}, got {getattr(self, name)}")
        for name in ("references", "independents"):
            if getattr(self, name) % 2:
                raise UsageError(
                    f"{name} must be an even number, since they are trained on complementary halves; "
                    f"got {getattr(self, name)}"
                )
        self._check_alpha()
        check_seed(self.seed)

    def _check_alpha(self) -> None:
        if self.alpha * (self.independents + 1) < 1 - 1e-9:
            raise UsageError(
                f"with {self.independents} independent models no p is below 1/{self.independents + 1}; "
                f"alpha {self.alpha:g} needs {2 * ceil((1 / self.alpha - 1) / 2 - 1e-9)} of them"
            )
