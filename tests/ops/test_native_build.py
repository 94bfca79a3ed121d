"""The build itself, and the kernel of ascent_update, executed on the host."""

import ctypes
import functools
import math
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pydrift
from pydrift.ops import native, native_status, reference
from tests.native_harness import (
    ascent_constants,
    call,
    host_library,
    needs_compiler,
)
from tests.ops.test_ascent_update import OPTIONS, SHAPES, assert_same_bits, clones, state_of

ROOT = Path(__file__).parents[2]

needs_native = pytest.mark.skipif(not native_status().cpu, reason="the native CPU library is not loaded")


# ---- What was built


@needs_compiler
@pytest.mark.skipif(os.environ.get("PYDRIFT_NATIVE") == "0", reason="PYDRIFT_NATIVE=0")
def test_native_code_is_in_use() -> None:
    """Where it could be built: else the tests below, which need it, would be skipped unnoticed."""
    assert native_status().cpu, native_status().reasons


@needs_native
def test_build_info(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYDRIFT_SIMD", raising=False)
    status = native_status()
    facts = ["built_with_torch", "compiler", "cuda_architectures", "cuda_compiler", "version"]
    assert list(status.build) == [*facts, "simd"]
    assert status.build["built_with_torch"] == torch.__version__
    assert status.build["version"] == pydrift.__version__
    assert status.build["simd"] == native.simd_variants()[-1]
    assert status.describe("cpu") == f"cpu ({status.build['simd']})"
    assert set(native.simd_variants()) <= {"scalar", "avx2", "avx512"}
    assert torch.ops.pydrift.max_values_per_sample() == 2**30


@needs_native
def test_the_module_of_source_builds_tells_the_same() -> None:
    module = pytest.importorskip(
        "pydrift._native", reason="no Python.h, or not a build from source", exc_type=ImportError
    )
    for name in ("build_info", "max_values_per_sample", "simd_variants"):
        assert getattr(module, name)() == getattr(torch.ops.pydrift, name)()


def test_nothing_needs_the_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A wheel has none."""
    monkeypatch.setitem(sys.modules, "pydrift._native", None)
    monkeypatch.setattr(native, "_load", functools.cache(native._load.__wrapped__))
    monkeypatch.delenv("PYDRIFT_NATIVE", raising=False)
    assert native._build_info(is_loaded=False) == {}
    if native_status().cpu:
        assert native_status().build["built_with_torch"] == torch.__version__


@needs_native
def test_libraries_are_the_build_of_these_sources() -> None:
    manifests = (ROOT / "build").glob(f"native-{sys.implementation.cache_tag}*/install_manifest*.txt")
    newest = max(manifests, key=lambda manifest: manifest.stat().st_mtime, default=None)
    if newest is None:
        pytest.skip("not built in this tree")
    folder = newest.parent
    ninja = re.search(r"CMAKE_MAKE_PROGRAM:\w+=(.*)", (folder / "CMakeCache.txt").read_text())
    assert ninja is not None
    pending = subprocess.run([ninja[1], "-n", "-C", folder], capture_output=True, text=True, check=True).stdout
    assert "no work to do" in pending


@needs_native
def test_no_absolute_path_in_the_libraries() -> None:
    for library in (ROOT / "pydrift").glob("*.so"):
        assert str(ROOT).encode() not in library.read_bytes(), library.name


@needs_native
def test_cuda_library() -> None:
    if not native_status().build["cuda_compiler"]:
        pytest.skip("built without a CUDA compiler")
    library = ROOT / "pydrift" / "libpydrift_cuda.so"
    assert library.exists()
    if "CUDAARCHS" not in os.environ:
        assert native_status().build["cuda_architectures"] == "80-real 90"
    if torch.version.cuda:
        assert native_status().cuda, native_status().reasons
        assert torch._C._dispatch_has_kernel_for_dispatch_key("pydrift::ascent_update", "CUDA")
    elif readelf := shutil.which("readelf"):
        dynamic = subprocess.run([readelf, "-d", library], capture_output=True, text=True, check=True).stdout
        for needed in ("libtorch_cpu.so", "libtorch.so", "libcudart.so"):
            assert f"[{needed}" in dynamic
        assert "libpydrift_cuda.so is not used: this torch is built without CUDA" in native_status().reasons


def test_device_code_knows_no_torch() -> None:
    for pattern in ("**/*_kernel.cuh", "**/*_math.h", "**/*_sample.h", "common/portable.h", "common/simd.h"):
        sources = list((ROOT / "csrc").glob(pattern))
        assert sources, pattern
        for source in sources:
            assert "#include <torch" not in source.read_text(), source
    assert "#include <torch" not in (ROOT / "csrc" / "module.cpp").read_text()


def test_library_that_is_missing_or_broken(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("PYDRIFT_NATIVE", raising=False)
    monkeypatch.setattr(native, "_PACKAGE", tmp_path)
    for function in (native._load, native._warn_plain_path):
        monkeypatch.setattr(native, function.__name__, functools.cache(function.__wrapped__))
    missing = "libpydrift_cpu.so was not built: the install found no C++ compiler, or was told not to build"
    assert native._why_not_loaded("cpu") == missing
    status = native_status()
    assert (status.cpu, status.cuda) == (False, False)
    assert status.describe("cpu").startswith(f"none (plain torch): {missing}; ")
    with pytest.warns(RuntimeWarning, match=re.escape(f"pydrift runs on plain torch on cpu, more slowly: {missing}")):
        assert native.native_op("ascent_update", torch.device("cpu")) is None
    (tmp_path / "libpydrift_cpu.so").write_bytes(b"not a library")
    assert str(native._why_not_loaded("cpu")).startswith("libpydrift_cpu.so does not load: ")


# ---- Switches of the install


def run_setup(target: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "setup.py", "-q", "build_ext", "--build-lib", str(target)]
    return subprocess.run(command, cwd=ROOT, env=os.environ | environment, capture_output=True, text=True)


def test_install_without_native_code(tmp_path: Path) -> None:
    stale = tmp_path / "pydrift" / "libpydrift_cpu.so"
    stale.parent.mkdir()
    stale.touch()
    assert run_setup(tmp_path, PYDRIFT_NATIVE="0").returncode == 0
    assert not stale.exists()


def test_install_without_a_compiler(tmp_path: Path) -> None:
    missing = "no C++ compiler found (looked for no-such-compiler)"
    done = run_setup(tmp_path, PYDRIFT_NATIVE="auto", CXX="no-such-compiler")
    assert done.returncode == 0, done.stderr
    assert f"WARNING: {missing}: pydrift will run on plain torch, more slowly" in done.stderr
    required = run_setup(tmp_path, PYDRIFT_NATIVE="1", CXX="no-such-compiler")
    assert required.returncode == 1
    assert f"PYDRIFT_NATIVE=1, but {missing}" in required.stderr


def test_unknown_switch(tmp_path: Path) -> None:
    done = run_setup(tmp_path, PYDRIFT_NATIVE="yes")
    assert done.returncode == 1
    assert "PYDRIFT_NATIVE must be auto, 0 or 1, got 'yes'" in done.stderr


# ---- The CUDA kernel, executed on the host


class Tensors(ctypes.Structure):
    """AscentTensors of csrc/invert/ascent_update_math.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "gradient", "first_moment", "second_moment")),
        *(
            (name, ctypes.c_void_p)
            for name in ("log_probability", "best_cost", "steps_without_improvement", "steps", "active")
        ),
        ("num_samples", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_channels", "height", "width")),
    )


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_library(tmp_path_factory, "ascent_update")


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("num_blocks", "num_threads"), [(1, 1), (2, 32), (100, 96)])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_cuda_kernel_on_the_host(
    kernel: ctypes.CDLL, optimizer: str, num_blocks: int, num_threads: int, reverse: bool
) -> None:
    """Fewer and more blocks than samples, fewer and more threads than pixels, threads in either order."""
    constants = ascent_constants(OPTIONS | {"optimizer": optimizer})
    for shape in SHAPES:
        state = state_of(shape)
        state["gradient"][-1].view(-1)[-1] = math.nan
        expected = clones(state)
        pointers = {name: tensor.data_ptr() for name, tensor in state.items()}
        tensors = Tensors(num_samples=shape[0], num_channels=shape[1], height=shape[2], width=shape[3], **pointers)
        for _ in range(3):
            call(kernel.run_ascent_update_kernel, tensors, constants, num_blocks, num_threads, reverse)
            reference.ascent_update(*expected.values(), **(OPTIONS | {"optimizer": optimizer}))
        assert_same_bits(state, expected)
