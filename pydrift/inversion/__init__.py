"""Model inversion: from a classifier to gray data."""

from pydrift.inversion.base import InversionAttack
from pydrift.inversion.gradient_ascent import GradientAscent

__all__ = ["GradientAscent", "InversionAttack"]
