"""What models are shown when they are to be judged: gray data in many views, with small marks, and simple shapes."""

from pydrift.drift.probes.occlusions import OCCLUSION_COLOURS, occlude
from pydrift.drift.probes.synthetic_shapes import SHAPE_KINDS, draw_shapes
from pydrift.drift.probes.transforms import TRANSFORMS, apply_transform

__all__ = ["OCCLUSION_COLOURS", "SHAPE_KINDS", "TRANSFORMS", "apply_transform", "draw_shapes", "occlude"]
