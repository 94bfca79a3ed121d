"""The native operations, one thin typed function each. Where a library did not load, the same function runs the plain
torch of `pydrift.ops.reference`, after one warning; `native_status()` says why."""

from pydrift.ops.ascent_update import ascent_update
from pydrift.ops.boundary_walks import L1, L2, LINF, BoundaryWalks, blind_walk, min_gd
from pydrift.ops.invert import Inverted, invert, why_not_invertible
from pydrift.ops.native import NativeStatus, native_status
from pydrift.ops.options import AscentOptions, BlindWalkOptions, MinGdOptions
from pydrift.ops.reference import Precision
from pydrift.ops.shadow_statistics import (
    ShadowMoments,
    ShadowStatistics,
    shadow_logits,
    shadow_moments,
    shadow_statistics,
)
from pydrift.ops.shadow_train import HYPERPARAMETERS, shadow_train, why_not_trainable

__all__ = [
    "HYPERPARAMETERS",
    "L1",
    "L2",
    "LINF",
    "AscentOptions",
    "BlindWalkOptions",
    "BoundaryWalks",
    "Inverted",
    "MinGdOptions",
    "NativeStatus",
    "Precision",
    "ShadowMoments",
    "ShadowStatistics",
    "ascent_update",
    "blind_walk",
    "invert",
    "min_gd",
    "native_status",
    "shadow_logits",
    "shadow_moments",
    "shadow_statistics",
    "shadow_train",
    "why_not_invertible",
    "why_not_trainable",
]
