"""The most that the machine can do, measured in the same run: multiply-adds in registers, matrix products, a copy."""

import ctypes
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import torch

_FMA_LOOPS = 8_000_000  # 10 ms a call on a fast core


@dataclass(frozen=True)
class Ceiling:
    """A limit. One call of `run` does `work` operations, or moves as many bytes."""

    run: Callable[[], object]
    work: float


@contextmanager
def float32_products(precision: str) -> Iterator[None]:
    """Sets the precision of CUDA's float32 products and convolutions: exact ("float32") or TF32 ("tf32").

    torch has two switches for that, and this sets both.
    """
    before = torch.get_float32_matmul_precision(), torch.backends.cudnn.allow_tf32
    torch.set_float32_matmul_precision("high" if precision == "tf32" else "highest")
    torch.backends.cudnn.allow_tf32 = precision == "tf32"
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(before[0])
        torch.backends.cudnn.allow_tf32 = before[1]


def ceilings(device: torch.device) -> tuple[dict[str, Ceiling], list[str]]:
    """Returns the ceilings by name, and a sentence for each that could not be measured."""
    if device.type == "cuda":
        products = {f"matmul {p}": _matmul(8192, device, p) for p in ("float32", "tf32", "bfloat16")}
        source = torch.rand(2**28, device=device)
        target = torch.empty_like(source)
        return {**products, "copy": Ceiling(lambda: target.copy_(source), 2 * source.nbytes)}, []
    found = {"matmul float32": _matmul(1536, device, "float32")}
    fma = _fma()
    if isinstance(fma, str):
        return found, [fma]
    return {"fma": fma, **found}, []


def _matmul(size: int, device: torch.device, precision: str) -> Ceiling:
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    out = torch.empty_like(a)

    def run() -> None:
        with float32_products(precision):
            torch.mm(a, b, out=out)

    return Ceiling(run, 2.0 * size**3)


def _fma() -> Ceiling | str:
    """Returns the peak of a core, measured by fma_peak.cpp, or a sentence that says why it is not known."""
    compiler = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    if compiler is None:
        return "the register peak is not known: there is no C++ compiler"
    source = Path(__file__).with_name("fma_peak.cpp")
    with tempfile.TemporaryDirectory() as folder:
        library = Path(folder) / "fma_peak.so"
        made = subprocess.run(
            [compiler, "-O2", "-std=c++17", "-shared", "-fPIC", "-o", library, source], capture_output=True, text=True
        )
        if made.returncode:
            return f"the register peak is not known: {compiler} fails on {source.name}: {made.stderr.strip()[:200]}"
        function = ctypes.CDLL(str(library)).fma_peak_run
    function.restype, function.argtypes = ctypes.c_double, [ctypes.c_int64]
    work = float(function(_FMA_LOOPS))
    if work == 0:
        return "the register peak is not known: the processor has neither AVX-512 nor AVX2"
    return Ceiling(lambda: function(_FMA_LOOPS), work)
