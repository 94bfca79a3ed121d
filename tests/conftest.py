"""Fixtures that several test files share."""

import os
import random
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from filelock import FileLock

from pydrift.data import LabelledImages, load_data
from pydrift.models.file import load_model
from pydrift.training.train_model import train_model
from tests.command_line import call

DIGITS_ARCH = "mlp:1x8x8:48:10"

# The operations of these tests are tiny: threads would only wait for each other. The same holds for the processes that
# tests start.
torch.set_num_threads(1)
os.environ.setdefault("OMP_NUM_THREADS", "1")


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of the real image sets, in their standard layouts: the one that PYDRIFT_TEST_DATA names."""
    folder = Path(os.environ.get("PYDRIFT_TEST_DATA") or "")
    if folder == Path():
        pytest.skip(
            "This test reads real image sets. Set the environment variable PYDRIFT_TEST_DATA to a folder that holds "
            "MNIST/raw, FashionMNIST/raw and cifar-10-batches-py, as torchvision unpacks them."
        )
    if not folder.is_dir():
        pytest.fail(f"PYDRIFT_TEST_DATA names {folder}, which is not a folder")
    return folder


@pytest.fixture(scope="session")
def make_once(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, Callable[[Path], object]], Path]:
    """A function (name, make) -> folder, which `make` has filled once for all workers of this run."""
    temporary = tmp_path_factory.getbasetemp()
    shared = temporary.parent if "PYTEST_XDIST_WORKER" in os.environ else temporary

    def made(name: str, make: Callable[[Path], object]) -> Path:
        folder = shared / f"made-{name}"
        with FileLock(shared / f"made-{name}.lock"):
            if not folder.exists():
                unfinished = shared / f"unfinished-{name}"
                shutil.rmtree(unfinished, ignore_errors=True)  # of a worker that failed
                unfinished.mkdir()
                make(unfinished)
                unfinished.rename(folder)
        return folder

    return made


@dataclass(frozen=True)
class Digits:
    """A small base and updates of it, trained on digits; model files in `folder`."""

    folder: Path
    data: LabelledImages
    holdout: LabelledImages

    def path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"


@pytest.fixture(scope="session")
def digits(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Digits:
    """Models "base", "benign" (other sample and seed), "swapped" (classes 3 and 8), "tuned" (continued training)."""
    data = load_data("digits")

    def train_all(folder: Path) -> None:
        made = Digits(folder, data, data)
        for seed, (name, drift) in enumerate({"base": None, "benign": None, "swapped": "swap:3,8"}.items(), start=1):
            train_model(DIGITS_ARCH, data, size=1000, seed=seed, drift=drift).save(made.path(name))
        base = load_model(made.path("base"))
        train_model(DIGITS_ARCH, data, size=1000, seed=4, init=base).save(made.path("tuned"))

    return Digits(make_once("digits", train_all), data, load_data("digits", "test"))


@pytest.fixture(scope="session")
def demo(make_once: Callable[[str, Callable[[Path], object]], Path]) -> Path:
    """A folder in which `pydrift demo` has run: `demo` is what it leaves, the file `stdout` what it printed."""

    def run_demo(folder: Path) -> None:
        done = call("demo", cwd=folder)
        assert done.returncode == 0, done.stderr
        (folder / "stdout").write_text(done.stdout)

    return make_once("demo", run_demo)


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
