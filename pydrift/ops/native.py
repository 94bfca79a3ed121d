"""Loads the native libraries and knows what became of it."""

import functools
import importlib
import os
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class NativeStatus:
    """What of the native code is in use.

    cpu, cuda: whether the library for that device is loaded (for CUDA whether or not there is a GPU).
    reasons: one sentence for each library that is not, or for a setting that cannot be met.
    build: facts of the build (compiler, versions) and `simd`, the CPU variant in use; empty without the build.
    """

    cpu: bool
    cuda: bool
    reasons: tuple[str, ...] = ()
    build: dict[str, str] = field(default_factory=dict)

    def runs_on(self, device_type: str) -> bool:
        """Whether the library for "cpu" or "cuda" is loaded."""
        return {"cpu": self.cpu, "cuda": self.cuda}.get(device_type, False)

    def path(self, device_type: str) -> str:
        """What the operations run as where `runs_on`: "native AVX-512", "native CUDA" and the like."""
        if device_type == "cuda":
            return "native CUDA"
        names = {"avx512": "native AVX-512", "avx2": "native AVX2", "scalar": "native scalar"}
        return names.get(self.build.get("simd", ""), "native")

    def describe(self, device_type: str) -> str:
        """What runs on "cpu" or "cuda": "cpu (avx512)", "cuda", or "none (plain torch): " and the reasons."""
        if device_type == "cpu" and self.cpu:
            return f"cpu ({self.build.get('simd') or 'variant unknown'})"
        if device_type == "cuda" and self.cuda:
            return "cuda"
        return f"none (plain torch): {'; '.join(self.reasons)}"


def _why_not_loaded(device: str) -> str | None:
    """Loads the library of a device. Returns None, or why it could not."""
    library = _PACKAGE / f"libpydrift_{device}.so"
    if not library.exists():
        return (
            f"{library.name} was not built: the install found no {'CUDA' if device == 'cuda' else 'C++'} compiler, "
            "or was told not to build"
        )
    try:
        torch.ops.load_library(str(library))
    except OSError as error:
        return f"{library.name} does not load: {error}"
    if not hasattr(torch.ops.pydrift, "build_info"):
        return f"{library.name} is older than this source: install pydrift again"
    return None


@functools.cache
def _load() -> NativeStatus:
    if os.environ.get("PYDRIFT_NATIVE") == "0":
        return NativeStatus(False, False, ("the environment variable PYDRIFT_NATIVE=0 turns the native code off",))
    cpu = _why_not_loaded("cpu")
    if cpu is not None:
        cuda: str | None = "libpydrift_cuda.so needs libpydrift_cpu.so"
    elif torch.version.cuda is None:
        cuda = "libpydrift_cuda.so is not used: this torch is built without CUDA"
    else:
        cuda = _why_not_loaded("cuda")
    reasons = tuple(reason for reason in (cpu, cuda) if reason is not None)
    return NativeStatus(cpu is None, cuda is None, reasons, _build_info(cpu is None))


def _build_info(is_loaded: bool) -> dict[str, str]:
    """The facts of the build, from the loaded library. Without it they come from the small module of a source build,
    which needs no torch: they say what the library was built for."""
    if is_loaded:
        facts = torch.ops.pydrift.build_info()
    else:
        try:
            facts = importlib.import_module("pydrift._native").build_info()
        except ImportError:  # a wheel, or nothing was built
            return {}
    return dict(fact.split("=", 1) for fact in facts)


def simd_variants() -> tuple[str, ...]:
    """The CPU variants that this processor can run, the widest last: the names that PYDRIFT_SIMD may take. Empty
    without the native CPU library."""
    return tuple(torch.ops.pydrift.simd_variants()) if _load().cpu else ()


def native_status() -> NativeStatus:
    """What of the native code is in use, and why not all of it."""
    status = _load()
    if not status.cpu:
        return status
    reasons, simd = status.reasons, ""
    try:
        simd = torch.ops.pydrift.chosen_simd()  # follows PYDRIFT_SIMD, which may change between calls
    except ValueError as error:
        reasons += (str(error),)
    return NativeStatus(status.cpu, status.cuda, reasons, {**status.build, "simd": simd})


@functools.cache
def _warn_plain_path(device_type: str) -> None:
    reasons = "; ".join(_load().reasons)
    warnings.warn(f"pydrift runs on plain torch on {device_type}, more slowly: {reasons}", RuntimeWarning, stacklevel=5)


def native_op(name: str, device: torch.device) -> Callable[..., Any] | None:
    """The operation pydrift::`name` if it has a native implementation for `device`; else None, after one warning where
    the whole library is missing."""
    status = _load()
    if (status.cpu and device.type in ("cpu", "meta")) or (status.cuda and device.type == "cuda"):
        if device.type == "cuda" and not torch._C._dispatch_has_kernel_for_dispatch_key(f"pydrift::{name}", "CUDA"):
            return None  # one of those that only the CPU has
        op: Callable[..., Any] = getattr(torch.ops.pydrift, name)
        return op
    _warn_plain_path(device.type)
    return None


def run_op(name: str, reference: Callable[..., Any], tensors: dict[str, Tensor], **scalars: Any) -> Any:
    """Runs pydrift::`name`, or its plain torch `reference` where there is no native one.

    tensors: in the order of the schema, on the device of the first. Refuses any that requires grad: no op has a
    gradient, so torch.ops would run and autograd would be silently wrong later.
    """
    for argument, tensor in tensors.items():
        if tensor.requires_grad:
            raise ValueError(f"{name}: {argument} must not require grad ({name} is not differentiable)")
    run = native_op(name, next(iter(tensors.values())).device) or reference
    return run(*tensors.values(), **scalars)


def register_fake(name: str, fake: Callable[..., Any]) -> None:
    """Registers the shape function of pydrift::`name`, where the library that defines the operation is loaded."""
    if _load().cpu:
        torch.library.register_fake(f"pydrift::{name}", fake)
