"""Checks of settings that every audit has."""

from __future__ import annotations

from pydrift.core.errors import UsageError


def check_seed(seed: int) -> None:
    """UsageError unless the seed is one that Philox and the files can hold: 0..2**63 - 1."""
    if not 0 <= seed < 2**63:
        raise UsageError(f"seed must be in 0..2**63 - 1, got {seed}")
