"""Fixtures that several test files share."""

import os
import random
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from pydrift.data import LabelledImages, load_data
from pydrift.models.file import load_model
from pydrift.training.train_model import train_model

DIGITS_ARCH = "mlp:1x8x8:48:10"

torch.set_num_threads(1)  # the operations of these tests are tiny: threads would only wait for each other


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


@dataclass(frozen=True)
class Digits:
    """A small base and updates of it, trained on digits; model files in `folder`."""

    folder: Path
    data: LabelledImages
    holdout: LabelledImages

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@pytest.fixture(scope="session")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Digits:
    """Models "base", "benign" (other sample and seed), "swapped" (classes 3 and 8), "tuned" (continued training)."""
    folder = tmp_path_factory.mktemp("digits")
    made = Digits(folder, load_data("digits"), load_data("digits", "test"))
    for seed, (name, drift) in enumerate({"base": None, "benign": None, "swapped": "swap:3,8"}.items(), start=1):
        train_model(DIGITS_ARCH, made.data, size=1000, seed=seed, drift=drift).save(made.path(name))
    base = load_model(made.path("base"))
    train_model(DIGITS_ARCH, made.data, size=1000, seed=4, init=base).save(made.path("tuned"))
    return made


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
