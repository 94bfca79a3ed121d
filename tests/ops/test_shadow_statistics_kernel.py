"""The CUDA source of the statistics, executed on the host, against the reference in plain torch."""

import ctypes
import math
from typing import Any

import pytest
import torch

from pydrift.ops import ShadowMoments, ShadowStatistics, reference
from tests.native_harness import ARITHMETIC, BlockShape, call, host_library, program_of
from tests.ops.test_invert_kernel import FLATTEN, NETWORKS, linear, parameters_of
from tests.ops.test_shadow_statistics import (
    FLOATS,
    LOGITS,
    Arguments,
    assert_same_bits,
    exact,
    statistics,
    welford,
    with_members,
)
from tests.rounded_products import ROUNDED, round_products

pytestmark = pytest.mark.slow


class Task(ctypes.Structure):
    """ShadowTask of csrc/statistics/shadow_statistics_task.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("program", "bytes", "values", "parameters", "label", "member")),
        ("num_models", ctypes.c_int64),
        ("num_samples", ctypes.c_int64),
        *((name, ctypes.c_void_p) for name in ("margin", "loss", "confidence", "prediction")),
        *((name, ctypes.c_void_p) for name in ("count", "mean", "m2", "logits")),
        ("arithmetic", ctypes.c_int32),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_library(tmp_path_factory, "shadow_statistics")


def task_of(arguments: Arguments, arithmetic: str) -> Task:
    x, parameters, label, _ = arguments.values()
    return Task(
        **{"bytes" if x.dtype == torch.uint8 else "values": x.data_ptr()},
        parameters=parameters.data_ptr(),
        label=label.data_ptr(),
        num_models=len(parameters),
        num_samples=len(x),
        arithmetic=ARITHMETIC.index(arithmetic),
    )


def run_kernel(
    library: ctypes.CDLL,
    arguments: Arguments,
    program: list[int],
    *,
    arithmetic: str = "fma",
    slots: int = 3,
    threads: int = 32,
    shared: int = 1 << 16,
    cluster: int = 1,
    clusters: int = 4,
    reverse: bool = False,
) -> tuple[ShadowStatistics, ShadowMoments]:
    x, parameters, _, member = arguments.values()
    shape = (len(parameters), len(x))
    one = ShadowStatistics(*torch.full((3, *shape), math.nan), torch.full(shape, -1, dtype=torch.int32))
    count = torch.full((2, len(x)), -1, dtype=torch.int32)
    two = ShadowMoments(count, *torch.full((2, 2, len(x)), math.nan))
    for outcome in (one, two):
        task = task_of(arguments, arithmetic)
        if outcome is two:
            task.member = member.data_ptr()
        for name in outcome._fields:
            setattr(task, name, getattr(outcome, name).data_ptr())
        cut = BlockShape(slots, threads, cluster, clusters, shared)
        call(library.run_shadow_statistics_kernel, task, program_of(program, x.shape[1:]), cut, reverse)
    return one, two


def arguments_of(name: str, count: int, num_models: int = 2, seed: int = 0) -> tuple[Arguments, list[int]]:
    shape, program = NETWORKS[name]
    generator = torch.Generator().manual_seed(seed + 1)
    parameters = parameters_of(program, shape, num_models, seed)
    classes = reference.logits(torch.zeros(1, *shape), program, parameters[0]).shape[1]
    tensors = {
        "x": torch.rand(count, *shape, generator=generator),
        "parameters": parameters,
        "label": torch.randint(classes, (count,), generator=generator, dtype=torch.int32),
    }
    return with_members(tensors), program


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("name", NETWORKS)
def test_against_float64(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, name: str, arithmetic: str) -> None:
    arguments, program = arguments_of(name, 7)
    result, moments = run_kernel(library, arguments, program, arithmetic=arithmetic)
    if arithmetic in ROUNDED:
        round_products(monkeypatch, ROUNDED[arithmetic])
    if name != "one class":
        expected = statistics(exact(arguments), program, reference.shadow_statistics)
        for key in FLOATS:
            difference = getattr(result, key).double() - getattr(expected, key)
            assert difference.norm() <= 1e-5 * getattr(expected, key).norm(), key
        assert torch.equal(result.prediction, expected.prediction)
    assert_same_bits(moments, welford(result.margin, arguments["member"]))


CUTS: tuple[dict[str, Any], ...] = (
    {"slots": 1, "threads": 64, "clusters": 1},
    {"slots": 8, "threads": 96, "reverse": True},
    {"slots": 9, "shared": 0},
    {"slots": 10, "shared": 700, "reverse": True},
    {"slots": 32, "threads": 128},
    {"slots": 2, "cluster": 2},
    {"slots": 3, "cluster": 4, "reverse": True},
    {"slots": 1, "cluster": 8, "shared": 500, "clusters": 1},
    {"slots": 5, "clusters": 100},
)


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [
        *((name, "fma") for name in ("mlp", "convnet", "overlapping windows", "pooled logits", "relu first")),
        ("small convnet", "tf32 split"),
    ],
)
def test_same_bits_however_the_work_is_cut(library: ctypes.CDLL, name: str, arithmetic: str) -> None:
    arguments, program = arguments_of(name, 11, num_models=3)
    expected = run_kernel(library, arguments, program, arithmetic=arithmetic)
    for cut in CUTS if arithmetic == "fma" else CUTS[1::4]:
        result = run_kernel(library, arguments, program, arithmetic=arithmetic, **cut)
        assert_same_bits(result[0], expected[0])
        assert_same_bits(result[1], expected[1])


@pytest.mark.parametrize("name", ["mlp in color", "convnet of odd sides"])
def test_bytes_are_pixels(library: ctypes.CDLL, name: str) -> None:
    arguments, program = arguments_of(name, 7)
    arguments["x"] = (arguments["x"] * 256).to(torch.uint8)
    floats = arguments | {"x": arguments["x"].float() / 255}
    result, expected = run_kernel(library, arguments, program), run_kernel(library, floats, program)
    assert_same_bits(result[0], expected[0])
    assert_same_bits(result[1], expected[1])


def test_extreme_logits(library: ctypes.CDLL) -> None:
    """A network that computes nothing, whose logits are the pixels."""
    logits = torch.tensor([row[-shift:] + row[:-shift] for row in LOGITS for shift in range(3)])
    logits = torch.cat([logits, torch.tensor([[math.nan, 0, 1], [0, math.inf, 1], [1, -math.inf, math.nan]])])
    for label in range(3):
        tensors = {"x": logits.view(-1, 3, 1, 1), "parameters": torch.empty(1, 0)}
        arguments = with_members(tensors | {"label": torch.full((len(logits),), label, dtype=torch.int32)})
        expected = statistics(
            arguments | {"x": arguments["x"].double(), "parameters": torch.empty(1, 0, dtype=torch.float64)},
            FLATTEN,
            reference.shadow_statistics,
        )
        result, moments = run_kernel(library, arguments, FLATTEN)
        for key in FLOATS:
            truth = getattr(expected, key).float()
            torch.testing.assert_close(getattr(result, key), truth, rtol=1e-6, atol=1e-45, equal_nan=True)
        assert torch.equal(result.prediction, expected.prediction)
        assert_same_bits(moments, welford(result.margin, arguments["member"]))


def test_many_classes(library: ctypes.CDLL) -> None:
    """More than the lanes of a warp, with equal largest logits in different lanes."""
    program = [*FLATTEN, *linear(4, 70)]
    parameters = torch.randn(1, 350, generator=torch.Generator().manual_seed(0)).clamp(max=0)
    weights, bias = parameters[0, :280].view(70, 4), parameters[0, 280:]
    for k in (65, 3, 40):
        weights[k], bias[k] = 0.5, 1.0
    tensors = {"x": torch.rand(5, 1, 2, 2), "parameters": parameters, "label": torch.arange(5, dtype=torch.int32)}
    arguments = with_members(tensors)
    result, _ = run_kernel(library, arguments, program)
    expected = statistics(exact(arguments), program, reference.shadow_statistics)
    assert result.prediction.tolist() == expected.prediction.tolist() == [[3] * 5]
    torch.testing.assert_close(result.margin, expected.margin.float(), rtol=1e-5, atol=1e-6)


def test_launcher_fills_shared_memory(library: ctypes.CDLL) -> None:
    """And the GPU before it."""
    arguments, program = arguments_of("convnet", 64)
    network, slots, chosen = program_of(program, arguments["x"].shape[1:]), ctypes.c_int32(), []
    for shared, clusters in ((1 << 20, 1), (1 << 20, 16), (1 << 13, 1), (100, 1)):
        shape = BlockShape(1, 512, 1, clusters, shared)
        call(library.choose_slots, task_of(arguments, "fma"), network, shape, slots)
        chosen.append(slots.value)
    assert chosen[:2] == [32, 8]
    assert 1 < chosen[2] < 32
    assert chosen[3] == 8  # in the workspace
