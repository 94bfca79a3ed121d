"""npy and npz files of plain numbers and strings: what their headers claim is checked before there is room for it.

numpy's own reader makes room for whatever a header claims, and advises to load unsafely what it refuses.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Collection
from math import prod
from typing import IO, Any

import numpy as np

from pydrift.core.limits import MAX_ARCHIVE_ENTRIES, check_unpacked

_MAX_HEADER = 10_000
_KINDS = "biufU"  # bool, integers, floats, strings
_PLAIN = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)  # what numpy writes


def parse_npy(data: bytes) -> np.ndarray:
    """The one array of an npy file. ValueError where it is damaged, or not of plain numbers or strings."""
    return _read_array(io.BytesIO(data), len(data))


def parse_npz(data: bytes, needed: Collection[str], optional: Collection[str] = ()) -> dict[str, np.ndarray]:
    """The arrays of these names in an npz file; an optional one may be missing. No other one is read.

    ValueError where a needed one is missing, one is not of plain numbers or strings, or the file is damaged, or would
    unpack out of proportion.
    """
    if data.count(b"PK\x01\x02") > MAX_ARCHIVE_ENTRIES:  # before zipfile makes an object for each entry
        raise ValueError(f"it has more than {MAX_ARCHIVE_ENTRIES} entries")
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            there = {entry.filename.removesuffix(".npy"): entry for entry in archive.infolist()}
            if not there.keys() >= set(needed):
                raise ValueError(f"it needs the arrays {_listed(needed)}, has {_listed(there)}")
            wanted = {name: there[name] for name in (*needed, *optional) if name in there}
            if any(entry.compress_type not in _PLAIN for entry in wanted.values()):
                raise ValueError("it is packed in a way that numpy does not know")
            check_unpacked(sum(entry.file_size for entry in wanted.values()), len(data))
            return {name: _read_entry(archive, entry, name) for name, entry in wanted.items()}
    except ValueError:
        raise
    except Exception as error:  # zipfile and zlib have many types
        raise ValueError(f"it is damaged: {error or type(error).__name__}") from error


def _read_entry(archive: zipfile.ZipFile, entry: zipfile.ZipInfo, name: str) -> np.ndarray:
    with archive.open(entry) as file:
        try:
            return _read_array(file, entry.file_size)
        except ValueError as error:
            raise ValueError(f"array {name!a}: {error}") from error


def _read_array(file: IO[bytes], size: int) -> np.ndarray:
    """The array of an npy file of `size` bytes. ValueError before any room is made, where its parts do not fit."""
    shape, in_columns, dtype = _read_header(file)
    if dtype.kind == "O":
        raise ValueError("it holds Python objects, and loading those can run any code; save plain numbers")
    if dtype.kind not in _KINDS or dtype.itemsize == 0:
        raise ValueError(f"it is of dtype {str(dtype)[:60]!a}, neither plain numbers nor strings")
    claimed, there = prod(shape) * dtype.itemsize, size - file.tell()
    if claimed != there or min(shape, default=0) < 0:
        raise ValueError(f"its header says {claimed} bytes, but there are {there}")
    values = np.empty(prod(shape), dtype)
    room = memoryview(values.view(np.uint8).data) if claimed else memoryview(b"")
    while len(room):
        count = file.readinto(room)  # type: ignore[attr-defined]  # all binary files have it
        if not count:
            raise ValueError("it is cut off")
        room = room[count:]
    native = values.astype(dtype.newbyteorder("="), copy=False)
    return native.reshape(shape, order="F" if in_columns else "C")


def _read_header(file: IO[bytes]) -> tuple[tuple[int, ...], bool, np.dtype[Any]]:
    """Shape, whether columns come first, and dtype."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        return read(file, max_header_size=_MAX_HEADER)
    except Exception as error:  # the header is a Python literal, whose parser has many errors
        raise ValueError("it has no readable npy header") from error


def _listed(names: Collection[str]) -> str:
    return ", ".join(name if name.isidentifier() else ascii(name) for name in sorted(names)[:10]) or "none"
