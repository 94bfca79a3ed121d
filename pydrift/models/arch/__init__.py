"""Architectures: built-in networks by their spec, the user's own, and lowering to a flat chain of layers."""

from pydrift.models.arch.fold import frozen_copy
from pydrift.models.arch.fused import FusedModel
from pydrift.models.arch.lower import NotLowerable, lower
from pydrift.models.arch.networks import build, outline
from pydrift.models.arch.resolve import resolve, resolve_stored
from pydrift.models.arch.spec import ArchSpec, is_spec, parse

__all__ = [
    "ArchSpec",
    "FusedModel",
    "NotLowerable",
    "build",
    "frozen_copy",
    "is_spec",
    "lower",
    "outline",
    "parse",
    "resolve",
    "resolve_stored",
]
