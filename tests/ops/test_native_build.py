"""The build itself, and the native code where the op's own test cannot reach: under sanitizers, and the CUDA kernel
executed on the host."""

import ctypes
import functools
import math
import os
import platform
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import pydrift
from pydrift.ops import native, native_status, reference
from tests.ops.test_ascent_update import OPTIONS, SHAPES, assert_same_bits, clones, state_of

ROOT = Path(__file__).parents[2]
NATIVE_TESTS = ROOT / "tests" / "native"
FLAGS = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", f"-I{NATIVE_TESTS}"]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))

needs_native = pytest.mark.skipif(not native_status().cpu, reason="the native CPU library is not loaded")
needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


VECTOR_FLAGS = {  # as in CMakeLists.txt
    "scalar": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [*(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")), "-mavx2", "-mfma"],
}


def run_sanitized(folder: Path, room: str, loop: str) -> None:
    """Builds csrc/<room>/<loop>_lanes.cpp for every instruction set, and <loop>_sanitized.cpp of the tests, which runs
    them all, with the sanitizers."""

    def build(name: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        sanitize = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
        command = [str(COMPILER), *FLAGS, *sanitize, *map(str, arguments), "-o", str(folder / name)]
        return subprocess.run(command, capture_output=True, text=True)

    (folder / "probe.cpp").write_text("int main() {}")
    if build("probe", folder / "probe.cpp").returncode:
        pytest.skip("the compiler has no sanitizer runtime")
    variants = ["scalar", "avx2", "avx512"] if platform.machine() in ("x86_64", "AMD64") else ["scalar"]
    for name in variants:
        built = build(f"{name}.o", "-c", ROOT / f"csrc/{room}/{loop}_lanes.cpp", *VECTOR_FLAGS[name])
        assert built.returncode == 0, built.stderr
    objects = [folder / f"{name}.o" for name in variants]
    arch = [ROOT / "csrc/arch" / name for name in ("pack.cpp", "plan.cpp")]
    built = build("sanitized", NATIVE_TESTS / f"{loop}_sanitized.cpp", *arch, *objects)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([folder / "sanitized"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"\d+ runs\n", run.stdout)


def compile_cpp(source: str, output: Path, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [str(COMPILER), *FLAGS, *flags, str(NATIVE_TESTS / source), "-o", str(output)]
    return subprocess.run(command, capture_output=True, text=True)


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


# ---- Sanitizers


@pytest.mark.slow
@needs_compiler
def test_address_and_undefined_sanitizers(tmp_path: Path) -> None:
    sanitize = ["-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    probe = tmp_path / "probe.cpp"
    probe.write_text("int main() {}")
    if subprocess.run([str(COMPILER), *sanitize, probe, "-o", tmp_path / "probe"], capture_output=True).returncode:
        pytest.skip("the compiler has no sanitizer runtime")
    program = tmp_path / "sanitized"
    built = compile_cpp("ascent_update_sanitized.cpp", program, "-O1", "-g", *sanitize)
    assert built.returncode == 0, built.stderr
    run = subprocess.run([program], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"\d+ comparisons\n", run.stdout)


# ---- The CUDA kernel, executed on the host


class Tensors(ctypes.Structure):
    """AscentTensors of csrc/invert/ascent_update_math.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("x", "gradient", "first_moment", "second_moment")),
        *((name, ctypes.c_void_p) for name in ("log_probability", "best_cost", "stale", "steps", "active")),
        ("num_samples", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("num_channels", "height", "width")),
    )


class Options(ctypes.Structure):
    """AscentOptions of csrc/invert/ascent_update_math.h."""

    _fields_ = (
        ("optimizer", ctypes.c_int),
        *((name, ctypes.c_double) for name in ("learning_rate", "beta1", "beta2")),
        *((name, ctypes.c_float) for name in ("first_decay", "first_weight", "second_decay", "second_weight")),
        *((name, ctypes.c_float) for name in ("epsilon", "roughness_weight", "size_weight", "lower", "upper")),
        ("confidence_threshold", ctypes.c_double),
        ("patience", ctypes.c_int64),
    )


@pytest.fixture(scope="module")
def kernel(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    library = tmp_path_factory.mktemp("native") / "kernel.so"
    built = compile_cpp("ascent_update_host.cpp", library, "-O1", "-shared", "-fPIC")
    assert built.returncode == 0, built.stderr
    return ctypes.CDLL(str(library))


def options_struct(optimizer: str) -> Options:
    beta1, beta2 = OPTIONS["beta1"], OPTIONS["beta2"]
    return Options(
        optimizer=["adam", "momentum"].index(optimizer),
        first_decay=beta1,
        first_weight=1 - beta1,
        second_decay=beta2,
        second_weight=1 - beta2,
        roughness_weight=2 * OPTIONS["tv_weight"],
        size_weight=2 * OPTIONS["l2_weight"],
        **{name: value for name, value in OPTIONS.items() if name in {field[0] for field in Options._fields_[1:]}},
    )


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
@pytest.mark.parametrize(("num_blocks", "num_threads"), [(1, 1), (2, 32), (100, 96)])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_cuda_kernel_on_the_host(
    kernel: ctypes.CDLL, optimizer: str, num_blocks: int, num_threads: int, reverse: bool
) -> None:
    """Fewer and more blocks than samples, fewer and more threads than pixels, threads in either order."""
    for shape in SHAPES:
        state = state_of(shape)
        state["gradient"][-1].view(-1)[-1] = math.nan
        expected = clones(state)
        pointers = {name: tensor.data_ptr() for name, tensor in state.items()}
        tensors = Tensors(num_samples=shape[0], num_channels=shape[1], height=shape[2], width=shape[3], **pointers)
        for _ in range(3):
            failed = kernel.run_ascent_update_kernel(
                ctypes.byref(tensors), ctypes.byref(options_struct(optimizer)), num_blocks, num_threads, reverse
            )
            assert not failed, "a barrier is not reached by all threads"
            reference.ascent_update(*expected.values(), **(OPTIONS | {"optimizer": optimizer}))
        assert_same_bits(state, expected)
