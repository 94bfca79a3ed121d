"""Values as text: the same in every process, so that a hash of it can tell two of the user's objects apart."""

from __future__ import annotations

from types import CodeType
from typing import Any


def spell(value: Any) -> str:
    """A plain value or code object as text, without addresses and the order of sets; anything else as its type."""
    inner: tuple[Any, ...]
    match value:
        case CodeType():
            inner = (value.co_code, value.co_names, value.co_consts)
        case slice():
            inner = (value.start, value.stop, value.step)
        case tuple() | list():
            inner = tuple(value)
        case dict():
            inner = tuple(value.items())
        case set() | frozenset():
            return f"{type(value).__name__}({', '.join(sorted(map(spell, value)))})"
        case None | bool() | int() | float() | complex() | str() | bytes():
            return repr(value)
        case _:
            return type(value).__qualname__
    return f"{type(value).__name__}({', '.join(map(spell, inner))})"
