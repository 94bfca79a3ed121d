"""Builds the native test programs and calls their functions: CUDA sources executed on the host, sanitized loops."""

import ctypes
import os
import platform
import re
import shutil
import subprocess
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent
NATIVE_TESTS = ROOT / "tests" / "native"
FLAGS = ["-std=c++17", "-ffp-contract=off", "-Wall", "-Wextra", "-Werror", f"-I{ROOT / 'csrc'}", f"-I{NATIVE_TESTS}"]
COMPILER = shutil.which(os.environ.get("CXX", "c++"))
PROGRAM_SOURCES = [ROOT / "csrc" / "network" / "program" / name for name in ("pack.cpp", "plan.cpp")]
SANITIZE = ["-O0", "-g1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
VECTOR_FLAGS = {  # as in CMakeLists.txt
    "scalar": [],
    "avx2": ["-mavx2", "-mfma"],
    "avx512": [*(f"-mavx512{part}" for part in ("f", "bw", "dq", "vl")), "-mavx2", "-mfma"],
}
ARITHMETIC = ["fma", "tf32 split", "tf32", "bfloat16"]  # Arithmetic of csrc/network/program/arithmetic.h

needs_compiler = pytest.mark.skipif(COMPILER is None, reason="no C++ compiler")


def compile_cpp(output: Path, *arguments: str | Path) -> None:
    """Fails with the compiler's message where it does not compile."""
    command = [str(COMPILER), *FLAGS, *map(str, arguments), "-o", str(output)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr


# ---- CUDA sources on the host


def host_library(folders: pytest.TempPathFactory, name: str, *sources: Path) -> ctypes.CDLL:
    """tests/native/<name>_host.cpp as a library. Its functions return null, or what went wrong."""
    if COMPILER is None:
        pytest.skip("no C++ compiler")
    path = folders.mktemp("native") / f"{name}.so"
    compile_cpp(path, "-O1", "-shared", "-fPIC", NATIVE_TESTS / f"{name}_host.cpp", *sources)
    return ctypes.CDLL(str(path))


class Program(ctypes.Structure):
    """HostProgram of tests/native/host_network.h."""

    _fields_ = (
        ("codes", ctypes.c_void_p),
        ("num_codes", ctypes.c_int64),
        *((name, ctypes.c_int32) for name in ("channels", "height", "width")),
    )


def program_of(codes: Sequence[int], input_shape: Sequence[int]) -> Program:
    array = (ctypes.c_int64 * len(codes))(*codes)
    program = Program(ctypes.addressof(array), len(codes), *input_shape)
    program.keep_alive = array
    return program


class BlockShape(ctypes.Structure):
    """BlockShape of csrc/network/cuda/block_launch.h."""

    _fields_ = (
        ("num_slots", ctypes.c_int32),
        ("num_threads", ctypes.c_int32),
        ("cluster_size", ctypes.c_int32),
        ("max_clusters", ctypes.c_int32),
        ("shared_limit", ctypes.c_int64),
    )


class AscentConstants(ctypes.Structure):
    """AscentConstants of csrc/invert/ascent_update_math.h."""

    _fields_ = (
        ("optimizer", ctypes.c_int),
        *((name, ctypes.c_double) for name in ("learning_rate", "beta1", "beta2")),
        *((name, ctypes.c_float) for name in ("first_decay", "first_weight", "second_decay", "second_weight")),
        *((name, ctypes.c_float) for name in ("epsilon", "roughness_weight", "size_weight", "lower", "upper")),
        ("confidence_threshold", ctypes.c_double),
        ("patience", ctypes.c_int64),
    )


def ascent_constants(options: Mapping[str, Any]) -> AscentConstants:
    """Of the options by name; what is no option is ignored."""
    names = {field[0] for field in AscentConstants._fields_[1:]}
    return AscentConstants(
        optimizer=["adam", "momentum"].index(options["optimizer"]),
        first_decay=options["beta1"],
        first_weight=1 - options["beta1"],
        second_decay=options["beta2"],
        second_weight=1 - options["beta2"],
        roughness_weight=2 * options["tv_weight"],
        size_weight=2 * options["l2_weight"],
        **{name: value for name, value in options.items() if name in names},
    )


def call(function: Any, *arguments: Any) -> None:
    """Calls a function of a host library, structures and int32 results by reference. Its message is a ValueError."""
    function.restype = ctypes.c_char_p
    error = function(
        *(ctypes.byref(part) if isinstance(part, ctypes.Structure | ctypes.c_int32) else part for part in arguments)
    )
    if error:
        raise ValueError(error.decode())


# ---- Sanitizers


def sanitized_objects(folder: Path) -> list[Path]:
    """Compiled into `folder` with the sanitizers: the plans of networks, and the loops for every instruction set."""
    try:
        (folder / "probe.cpp").write_text("int main() {}")
        compile_cpp(folder / "probe", *SANITIZE, folder / "probe.cpp")
    except AssertionError:
        pytest.skip("the compiler has no sanitizer runtime")
    loops = sorted((ROOT / "csrc").glob("*/*_lanes.cpp"))
    (folder / "loops.cpp").write_text("".join(f'#include "{loop.relative_to(ROOT / "csrc")}"\n' for loop in loops))
    variants = list(VECTOR_FLAGS) if platform.machine() in ("x86_64", "AMD64") else ["scalar"]
    parts = [([], source) for source in PROGRAM_SOURCES]
    parts += [(VECTOR_FLAGS[variant], folder / "loops.cpp") for variant in variants]
    objects = [folder / f"{number}.o" for number in range(len(parts))]
    for (flags, source), output in zip(parts, objects, strict=True):
        compile_cpp(output, *SANITIZE, *flags, "-c", source)
    return objects


def run_sanitized(folder: Path, program: Path, objects: Sequence[Path]) -> None:
    """Builds a program of tests/native with the sanitizers and runs it."""
    compile_cpp(folder / "sanitized", *SANITIZE, program, *objects)
    run = subprocess.run([folder / "sanitized"], capture_output=True, text=True)
    assert run.returncode == 0, run.stdout + run.stderr
    assert re.fullmatch(r"\d+ runs\n", run.stdout)


# ---- Options


def by_name(op: Callable[..., Any], options: type) -> Callable[..., Any]:
    """`op` with its options by name, as the native op and the reference take them."""
    names = {field.name for field in fields(options)}

    def flat(*tensors: Any, **scalars: Any) -> Any:
        given = {name: value for name, value in scalars.items() if name in names}
        rest = {name: value for name, value in scalars.items() if name not in names}
        return op(*tensors, options=options(**given), **rest)

    return flat
