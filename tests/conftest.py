"""Fixtures that several test files share."""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real data sets, in their standard layouts.

    PYDRIFT_TEST_DATA names one; otherwise ../shared/data, if it is there, is unpacked once into the temporary folder.
    """
    if given := os.environ.get("PYDRIFT_TEST_DATA"):
        return Path(given)
    packed = Path(__file__).parents[2] / "shared" / "data" / "unpack.py"
    if not packed.exists():
        pytest.skip(f"no real data: PYDRIFT_TEST_DATA is not set and {packed.parent} is not there")
    unpacked = Path(tempfile.gettempdir()) / f"pydrift-test-data-{os.getuid()}"
    subprocess.run([sys.executable, packed, unpacked], check=True)
    return unpacked


@pytest.fixture
def mutated() -> Callable[[bytes, int], bytes]:
    """A function (data, seed) -> damaged data: bits flipped, bytes replaced, cut out, put in or copied about."""

    def mutate(data: bytes, seed: int) -> bytes:
        rng = random.Random(seed)
        changed = bytearray(data)
        for _ in range(rng.choice((1, 1, 2, 8))):
            position = rng.randrange(len(changed))
            match rng.randrange(5):
                case 0:
                    changed[position] ^= 1 << rng.randrange(8)
                case 1:
                    changed[position] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, *b".}]RbcQ"))
                case 2:
                    del changed[position : position + rng.randrange(1, 20)]
                case 3:
                    changed[position:position] = rng.randbytes(rng.randrange(1, 9))
                case 4:
                    start = rng.randrange(len(changed))
                    changed[position : position + 8] = changed[start : start + 8]
            changed = changed or bytearray(1)
        return bytes(changed)

    return mutate
