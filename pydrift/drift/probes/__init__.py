"""What a drift audit asks models with: transformed gray data, small occlusions of it, and synthetic shapes."""

from pydrift.drift.probes.occlusions import OCCLUSION_COLOURS, occlude
from pydrift.drift.probes.synthetic_shapes import SHAPE_KINDS, draw_shapes
from pydrift.drift.probes.transforms import TRANSFORMS, apply_transform

__all__ = ["OCCLUSION_COLOURS", "SHAPE_KINDS", "TRANSFORMS", "apply_transform", "draw_shapes", "occlude"]
