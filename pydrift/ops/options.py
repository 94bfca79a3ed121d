"""The scalars of the loops, grouped. Schemas and C++ have the same names in the same order; a test compares them."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class AscentOptions:
    """The scalars of `ascent_update` and `invert`, which state what each does."""

    optimizer: Literal["adam", "momentum"]
    learning_rate: float
    beta1: float
    beta2: float
    epsilon: float
    tv_weight: float
    l2_weight: float
    lower: float
    upper: float
    confidence_threshold: float
    patience: int


@dataclass(frozen=True, kw_only=True)
class MinGdOptions:
    """The scalars of `min_gd`, which states what each does."""

    max_steps: int
    linf_step: float
    l2_step: float
    l1_step: float
    l1_coordinates: int
    l1_gap: float
    lower: float = 0.0
    upper: float = 1.0


@dataclass(frozen=True, kw_only=True)
class BlindWalkOptions:
    """The scalars of `blind_walk`, which states what each does."""

    max_steps: int
    lower: float = 0.0
    upper: float = 1.0
