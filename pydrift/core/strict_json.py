"""JSON as the standard has it: no NaN, no key twice, written in one canonical way."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from pydrift.core.errors import InputRefused
from pydrift.core.files import read_file, write_atomic
from pydrift.core.limits import MAX_JSON, MAX_JSON_VALUES

_LARGEST, _MAX_DIGITS = 1e100, 100  # no figure is larger, and sums and squares of these are still finite


def to_strict_json(obj: Any) -> str:
    """Canonical JSON: sorted keys, indent 2, ASCII, trailing newline. ValueError for NaN and infinities."""
    return json.dumps(obj, allow_nan=False, sort_keys=True, indent=2) + "\n"


def write_json(path: str | Path, obj: Any) -> None:
    """Writes `to_strict_json(obj)` atomically."""
    write_atomic(path, to_strict_json(obj).encode())


def parse_strict_json(text: bytes) -> Any:
    """Parses JSON. ValueError for NaN, infinities, numbers too large for a float, and an object with a key twice.

    The same for a text with more values than a document has: as Python objects they would take thirty times its size.
    """
    if len(text) > MAX_JSON or sum(map(text.count, (b",", b"[", b"{"))) > MAX_JSON_VALUES:
        raise ValueError(f"longer than {MAX_JSON} bytes or {MAX_JSON_VALUES} values")

    def refuse_constant(name: str) -> Any:
        raise ValueError(f"{name} is not JSON")

    def finite(digits: str) -> float:
        if not abs(value := float(digits)) <= _LARGEST:
            raise ValueError("a number is too large")
        return value

    def short(digits: str) -> int:
        if len(digits) > _MAX_DIGITS:
            raise ValueError("a number is too large")
        return int(digits)

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        result = dict(pairs)
        if len(result) != len(pairs):
            raise ValueError("an object has the same key twice")
        return result

    try:
        return json.loads(
            text, parse_float=finite, parse_int=short, parse_constant=refuse_constant, object_pairs_hook=unique
        )
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def read_json(path: str | Path) -> Any:
    """Reads a strict JSON file; InputRefused names the file if it is not one."""
    try:
        return parse_strict_json(read_file(path, MAX_JSON))
    except ValueError as error:
        raise InputRefused(f"{path}: not valid JSON: {error}") from error
