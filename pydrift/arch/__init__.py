"""Architectures: the built-in networks by their text, the user's own, and lowering to a flat chain of layers."""

from pydrift.arch.fold import frozen_copy
from pydrift.arch.fused import FusedModel
from pydrift.arch.lower import NotLowerable, lower
from pydrift.arch.networks import build
from pydrift.arch.resolve import resolve, resolve_stored
from pydrift.arch.spec import ArchSpec, is_spec, parse

__all__ = [
    "ArchSpec",
    "FusedModel",
    "NotLowerable",
    "build",
    "frozen_copy",
    "is_spec",
    "lower",
    "parse",
    "resolve",
    "resolve_stored",
]
