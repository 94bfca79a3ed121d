"""Model inversion: from a classifier to gray data."""

from pydrift.inversion.base import InversionAttack
from pydrift.inversion.gradient_ascent import GradientAscent
from pydrift.inversion.many import invert_models

ATTACKS: dict[str, type[InversionAttack]] = {"gradient_ascent": GradientAscent}
"""Inversion attacks by the name that a calibration records."""

__all__ = ["ATTACKS", "GradientAscent", "InversionAttack", "invert_models"]
