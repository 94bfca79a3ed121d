"""npy and npz files: plain arrays come back as they are, and a header's claims are checked before there is room."""

import io
import tracemalloc
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from pydrift.cli.app import read_members
from pydrift.core.arrays import parse_npy, parse_npz
from pydrift.core.errors import InputRefused


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def npz(compress: bool = True, **arrays: Any) -> bytes:
    buffer = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(buffer, **arrays)
    return buffer.getvalue()


def header(descr: Any, shape: Any, data: bytes = b"") -> bytes:
    buffer = io.BytesIO()
    np.lib.format.write_array_header_1_0(buffer, {"descr": descr, "fortran_order": False, "shape": shape})
    return buffer.getvalue() + data


@pytest.mark.parametrize(
    "array",
    [
        np.arange(6, dtype=np.int64).reshape(2, 3),
        np.asfortranarray(np.arange(6, dtype=">f4").reshape(2, 3)),
        np.array(3.5),
        np.zeros((0, 4), np.uint8),
        np.array(["a", "é"]),
        np.array([True, False]),
    ],
)
def test_plain_arrays_come_back(array: np.ndarray) -> None:
    for found in (
        parse_npy(npy(array)),
        parse_npz(npz(a=array), ["a"])["a"],
        parse_npz(npz(False, a=array), ["a"])["a"],
    ):
        assert np.array_equal(found, array)
        assert found.shape == array.shape
        assert found.dtype == array.dtype.newbyteorder("=")
        assert found.flags.writeable


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (header("|u1", (1 << 46, 8, 8)), f"its header says {1 << 52} bytes, but there are 0"),
        (header("<U100000000", (480,)), "its header says 192000000000 bytes, but there are 0"),
        (header("<U0", (1 << 40,)), "it is of dtype '<U0', neither plain numbers nor strings"),
        (header("|u1", (-1, -4), b"1234"), "its header says 4 bytes, but there are 4"),
        (header("|u1", (3,), b"1234"), "its header says 3 bytes, but there are 4"),
        (header("<M8[s]", (1,), bytes(8)), "it is of dtype 'datetime64[s]', neither plain numbers nor strings"),
        (header([("a", "<i4")], (1,), bytes(4)), "it is of dtype "),
        (npy(np.array([print], object)), "it holds Python objects, and loading those can run any code; save plain"),
        (b"\x93NUMPY\x01\x00\x10\x00" + b"(" * 15 + b"\n", "it has no readable npy header"),
        (b"\x93NUMPY\x01\x00\xff\xff", "it has no readable npy header"),
        (b"\x93", "it has no readable npy header"),
    ],
)
def test_a_hostile_npy_file_is_refused_without_room(data: bytes, reason: str, tmp_path: Path) -> None:
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"^it") as error:
        parse_npy(data)
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()
    assert str(error.value).startswith(reason)
    (tmp_path / "members.npy").write_bytes(data)
    with pytest.raises(InputRefused, match=r"members\.npy: not an npy file of plain numbers: it"):
        read_members(tmp_path / "members.npy")


def packed(method: int, **entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def test_a_hostile_npz_file_is_refused() -> None:
    zeros = header("|u1", (80 << 20,), bytes(80 << 20))
    good = packed(zipfile.ZIP_STORED, x=npy(1))
    for data, reason in (
        (
            packed(zipfile.ZIP_DEFLATED, x=zeros),
            r"^it unpacks to 83886\d{3} bytes, the limit for its size is 6710",
        ),
        (packed(zipfile.ZIP_LZMA, x=npy(1)), "^it is packed in a way that numpy does not know$"),
        (packed(zipfile.ZIP_STORED, x=b"abc"), "^array 'x': it has no readable npy header$"),
        (packed(zipfile.ZIP_STORED, z=npy(1)), "^it needs the arrays x, has z$"),
        (good[:-5], "^it is damaged: File is not a zip file$"),
        (good.replace(b"NUMPY", b"NUMPI"), "^it is damaged: Bad CRC-32|no readable npy header"),
        (b"", "^it is damaged: File is not a zip file$"),
        (b"PK\x01\x02" * 20_000, "^it has more than 10000 entries$"),
    ):
        with pytest.raises(ValueError, match=reason):
            parse_npz(data, ["x"])
