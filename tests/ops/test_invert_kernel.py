"""The CUDA source of the fused inversion, executed on the host, against the reference in plain torch."""

import ctypes
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydrift.ops import reference
from tests.native_harness import (
    ARITHMETIC,
    AscentConstants,
    BlockShape,
    ascent_constants,
    call,
    host_library,
    program_of,
)
from tests.ops.test_invert_edges import NOT_FINITE
from tests.rounded_products import ROUNDED, round_products

pytestmark = pytest.mark.slow

OPTIONS: dict[str, Any] = {
    "optimizer": "adam",
    "learning_rate": 0.05,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "tv_weight": 0.02,
    "l2_weight": 0.003,
    "lower": 0.0,
    "upper": 1.0,
    "confidence_threshold": 2.0,
    "patience": 100,
}

RELU, FLATTEN = [3], [6]


def linear(c_in: int, c_out: int) -> list[int]:
    return [0, c_in, c_out]


def conv(c_in: int, c_out: int, kernel: int | tuple[int, int] = 3, stride: int = 1, padding: int = 1) -> list[int]:
    kernel_h, kernel_w = (kernel, kernel) if isinstance(kernel, int) else kernel
    return [1, c_in, c_out, kernel_h, kernel_w, stride, stride, padding, padding]


def affine(channels: int) -> list[int]:
    return [2, channels]


def max_pool(kernel: int, stride: int, padding: int = 0) -> list[int]:
    return [4, kernel, kernel, stride, stride, padding, padding]


def avg_pool(kernel: int, stride: int) -> list[int]:
    return [5, kernel, kernel, stride, stride]


NETWORKS = {
    # name: input shape, program
    "linear": ((1, 7, 9), [*FLATTEN, *linear(63, 5)]),
    "mlp": ((1, 8, 8), [*FLATTEN, *linear(64, 37), *RELU, *linear(37, 19), *RELU, *linear(19, 7)]),
    "mlp in color": ((3, 5, 4), [*FLATTEN, *linear(60, 33), *RELU, *linear(33, 40)]),
    "one class": ((1, 4, 4), [*FLATTEN, *linear(16, 3), *RELU, *linear(3, 1)]),
    "convnet": (
        (1, 8, 8),
        [
            *(*conv(1, 5), *RELU, *max_pool(2, 2), *conv(5, 9), *RELU, *max_pool(2, 2)),
            *(*FLATTEN, *linear(36, 11), *RELU, *linear(11, 6)),
        ],
    ),
    "convnet of odd sides": (
        (3, 13, 11),
        [
            *(*conv(3, 6), *RELU, *max_pool(2, 2), *conv(6, 7), *RELU, *max_pool(2, 2)),
            *(*FLATTEN, *linear(42, 4)),
        ],
    ),
    "small convnet": (
        (1, 7, 6),
        [*conv(1, 6), *RELU, *max_pool(2, 2), *conv(6, 5), *RELU, *max_pool(2, 2), *FLATTEN, *linear(5, 6)],
    ),
    "kernels of 5": ((1, 9, 7), [*conv(1, 4, 5, 1, 2), *RELU, *conv(4, 9, 5, 1, 0), *RELU, *FLATTEN, *linear(135, 3)]),
    "many channels": ((1, 7, 5), [*conv(1, 8), *RELU, *conv(8, 9), *RELU, *FLATTEN, *linear(315, 3)]),
    "stride 2": ((3, 9, 8), [*conv(3, 9, 3, 2), *RELU, *conv(9, 4, 5, 2, 2), *FLATTEN, *linear(24, 3)]),
    "stride 2, pooled": ((1, 11, 9), [*conv(1, 3, 3, 2, 0), *RELU, *max_pool(2, 2), *FLATTEN, *linear(12, 3)]),
    "stride beyond the kernel": ((2, 8, 7), [*conv(2, 9, (2, 1), 3, 0), *RELU, *FLATTEN, *linear(81, 4)]),
    "wide padding": ((1, 5, 6), [*conv(1, 3, (3, 2), 1, 3), *RELU, *avg_pool(3, 2), *FLATTEN, *linear(60, 4)]),
    "average pooling": ((2, 7, 9), [*conv(2, 9), *RELU, *avg_pool(2, 2), *conv(9, 3), *avg_pool(3, 1), *FLATTEN]),
    "overlapping windows": (
        (3, 9, 7),
        [*conv(3, 5), *max_pool(3, 2, 1), *RELU, *max_pool(3, 1, 1), *FLATTEN, *linear(100, 4)],
    ),
    "scales": (
        (3, 6, 7),
        [*affine(3), *conv(3, 4), *RELU, *affine(4), *RELU, *FLATTEN, *affine(168), *RELU, *linear(168, 5), *RELU],
    ),
    "pooled logits": ((1, 6, 6), [*conv(1, 5), *RELU, *max_pool(2, 2), *FLATTEN]),
    "nothing": ((1, 2, 3), FLATTEN),
    "relu first": ((2, 5, 5), [*RELU, *max_pool(2, 2), *RELU, *FLATTEN, *RELU, *linear(8, 3), *affine(3)]),
}


def parameters_of(program: list[int], shape: tuple[int, ...], num_models: int = 1, seed: int = 0) -> Tensor:
    """Random weights of a network: [num_models, P], of the size that keeps activations around 1."""
    generator = torch.Generator().manual_seed(seed)
    parts, i = [], 0
    while i < len(program):
        match program[i]:
            case 0 | 1 as kind:
                c_in, c_out = program[i + 1 : i + 3]
                fan_in = c_in * math.prod(program[i + 3 : i + 5]) if kind == 1 else c_in
                parts.append(torch.randn(num_models, c_out * fan_in, generator=generator) * (2 / fan_in) ** 0.5)
                parts.append(0.2 * torch.randn(num_models, c_out, generator=generator))
                i += 9 if kind == 1 else 3
            case 2:
                parts.append(1 + 0.3 * torch.randn(num_models, program[i + 1], generator=generator))
                parts.append(0.1 * torch.randn(num_models, program[i + 1], generator=generator))
                i += 2
            case kind:
                i += {3: 1, 4: 7, 5: 5, 6: 1}[kind]
    return torch.cat(parts, dim=1) if parts else torch.empty(num_models, 0)


# ---- The kernel as a function


class Task(ctypes.Structure):
    """InvertTask of csrc/invert/invert_task.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("program", "parameters", "x", "model", "label", "restart")),
        *((name, ctypes.c_void_p) for name in ("confidence", "loss", "steps")),
        ("num_models", ctypes.c_int64),
        ("num_samples", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        ("jitter", ctypes.c_int32),
        ("max_steps", ctypes.c_int32),
        ("ascent", AscentConstants),
        ("arithmetic", ctypes.c_int32),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_library(tmp_path_factory, "invert")


Outcome = tuple[Tensor, Tensor, Tensor, Tensor]  # images, confidence, loss, steps


def run_kernel(
    library: ctypes.CDLL,
    tensors: tuple[Tensor, ...],
    program: list[int],
    *,
    arithmetic: str = "fma",
    slots: int = 3,
    threads: int = 32,
    shared: int = 1 << 16,
    cluster: int = 1,
    clusters: int = 100,
    reverse: bool = False,
    **options: Any,
) -> Outcome:
    """The kernel's outcome for `tensors` (x, parameters, model, label, restart)."""
    x, parameters, model, label, restart = (tensor.clone() for tensor in tensors)
    count = len(x)
    confidence, loss = torch.full((2, count), math.nan)
    steps = torch.full((count,), -1, dtype=torch.int32)
    named = {"parameters": parameters, "x": x, "model": model, "label": label, "restart": restart}
    named |= {"confidence": confidence, "loss": loss, "steps": steps}
    task = Task(
        **{name: tensor.data_ptr() for name, tensor in named.items()},
        num_models=len(parameters),
        num_samples=count,
        seed=options["seed"],
        jitter=options["jitter"],
        max_steps=options["max_steps"],
        ascent=ascent_constants(options),
        arithmetic=ARITHMETIC.index(arithmetic),
    )
    shape = BlockShape(slots, threads, cluster, clusters, shared)
    call(library.run_invert_kernel, task, program_of(program, x.shape[1:]), shape, reverse)
    return x, confidence, loss, steps


def run_reference(
    tensors: tuple[Tensor, ...], program: list[int], dtype: torch.dtype = torch.float64, **options: Any
) -> Outcome:
    x, parameters, *ids = tensors
    x = x.to(dtype, copy=True)
    return (x, *reference.invert(x, parameters.to(dtype), *ids, program=program, precision="float32", **options))


def tensors_of(name: str, count: int, num_models: int = 1, seed: int = 0) -> tuple[tuple[Tensor, ...], list[int]]:
    """Restarts of a network of the table, models and labels in no order, and the network's program."""
    shape, program = NETWORKS[name]
    parameters = parameters_of(program, shape, num_models, seed)
    num_classes = reference.logits(torch.zeros(1, *shape), program, parameters[0]).shape[1]
    generator = torch.Generator().manual_seed(seed + 1)
    x = 0.1 + 0.8 * torch.rand(count, *shape, generator=generator)
    model = torch.randint(num_models, (count,), generator=generator, dtype=torch.int32)
    label = torch.randint(num_classes, (count,), generator=generator, dtype=torch.int32)
    restart = torch.randint(60_000, (count,), generator=generator, dtype=torch.int32)
    return (x, parameters, model, label, restart), program


def assert_close(outcome: Outcome, expected: Outcome, tolerance: float) -> None:
    for got, wanted, name in zip(outcome, expected, ("images", "confidence", "loss", "steps"), strict=True):
        error = torch.linalg.norm((got - wanted).double()) / torch.linalg.norm(wanted.double()).clamp(min=1e-12)
        assert error <= tolerance, (name, error)


def assert_same_bits(outcome: Outcome, expected: Outcome) -> None:
    for got, wanted in zip(outcome, expected, strict=True):
        torch.testing.assert_close(got, wanted, rtol=0, atol=0, equal_nan=True)


# ---- Agreement with the reference


@pytest.mark.parametrize("arithmetic", ARITHMETIC)
@pytest.mark.parametrize("name", NETWORKS)
def test_gradient(library: ctypes.CDLL, monkeypatch: pytest.MonkeyPatch, name: str, arithmetic: str) -> None:
    """One momentum step so large that nothing but the gradient is left in the image. Rounded factors can make another
    pixel the largest of its window, so the reference rounds them, too."""
    tensors, program = tensors_of(name, 5)
    options = OPTIONS | {"optimizer": "momentum", "learning_rate": 1e6, "tv_weight": 0.0, "l2_weight": 0.0}
    options |= {"lower": -math.inf, "upper": math.inf, "seed": 3, "jitter": 2, "max_steps": 1}
    x, *_ = run_kernel(library, tensors, program, arithmetic=arithmetic, **options)
    if arithmetic in ROUNDED:
        round_products(monkeypatch, ROUNDED[arithmetic])
    expected, *_ = run_reference(tensors, program, **options)
    scale = torch.linalg.norm(expected - tensors[0])
    assert scale > (1e3 if name != "one class" else -1.0)
    assert torch.linalg.norm(x - expected) <= 1e-5 * scale


@pytest.mark.parametrize("name", NETWORKS)
def test_one_step(library: ctypes.CDLL, name: str) -> None:
    tensors, program = tensors_of(name, 5)
    options = OPTIONS | {"optimizer": "momentum", "seed": 3, "jitter": 2, "max_steps": 1}
    assert_close(run_kernel(library, tensors, program, **options), run_reference(tensors, program, **options), 1e-5)


@pytest.mark.parametrize("arithmetic", ["fma", "tf32 split"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("name", ["mlp", "convnet", "stride 2", "average pooling", "overlapping windows", "scales"])
def test_ten_steps(library: ctypes.CDLL, name: str, optimizer: str, arithmetic: str) -> None:
    tensors, program = tensors_of(name, 4)
    options = OPTIONS | {"optimizer": optimizer, "seed": 2**64 - 5, "jitter": 0, "max_steps": 10, "epsilon": 1e-4}
    outcome = run_kernel(library, tensors, program, arithmetic=arithmetic, **options)
    assert_close(outcome, run_reference(tensors, program, **options), 1e-4)


def test_large_jitter_wraps_around(library: ctypes.CDLL) -> None:
    tensors, program = tensors_of("linear", 4)
    options = OPTIONS | {"seed": 1, "jitter": 40, "max_steps": 5, "epsilon": 1e-4}
    assert_close(run_kernel(library, tensors, program, **options), run_reference(tensors, program, **options), 1e-4)


# ---- Stops and refills

STOPPING = OPTIONS | {"seed": 11, "jitter": 1, "max_steps": 12, "confidence_threshold": 0.6, "patience": 2}


@pytest.mark.parametrize("name", ["mlp", "convnet"])
def test_restarts_of_several_models_that_stop_early(library: ctypes.CDLL, name: str) -> None:
    """More restarts than slots, so that slots are refilled; one of the models has none."""
    tensors, program = tensors_of(name, 13, num_models=4)
    tensors[2][tensors[2] == 2] = 1
    expected = run_reference(tensors, program, **STOPPING)
    assert len(expected[3].unique()) > 3
    for slots, clusters, cluster in ((1, 100, 1), (2, 3, 1), (5, 1, 1), (2, 1, 2)):
        cut = {"slots": slots, "clusters": clusters, "cluster": cluster}
        outcome = run_kernel(library, tensors, program, **cut, **STOPPING)
        assert outcome[3].tolist() == expected[3].tolist()
        assert_close(outcome, expected, 1e-4)


CUTS: tuple[dict[str, Any], ...] = (
    {"slots": 1, "threads": 64, "clusters": 1},
    {"slots": 8, "threads": 96, "reverse": True},
    {"slots": 9, "shared": 0},
    {"slots": 10, "shared": 700, "reverse": True},
    {"slots": 33, "threads": 128},
    {"slots": 2, "cluster": 2},
    {"slots": 3, "cluster": 4, "reverse": True},
    {"slots": 1, "cluster": 8, "shared": 500, "clusters": 1},
)


@pytest.mark.parametrize(
    ("name", "arithmetic"),
    [
        *((name, "fma") for name in ("mlp", "convnet", "overlapping windows", "average pooling", "pooled logits")),
        *((name, "tf32 split") for name in ("mlp", "small convnet")),
        ("mlp", "bfloat16"),
    ],
)
def test_same_bits_however_the_work_is_cut(library: ctypes.CDLL, name: str, arithmetic: str) -> None:
    """Slots, threads, clusters, kinds of memory, order of the threads and of the restarts."""
    tensors, program = tensors_of(name, 7, num_models=2)
    options = STOPPING | {"arithmetic": arithmetic, "max_steps": 4 if arithmetic == "fma" else 2}
    expected = run_kernel(library, tensors, program, **options)
    for cut in CUTS:
        assert_same_bits(run_kernel(library, tensors, program, **cut, **options), expected)
    x, parameters, *ids = tensors
    outcome = run_kernel(library, (x.flip(0), parameters, *(part.flip(0) for part in ids)), program, **options)
    assert_same_bits(tuple(part.flip(0) for part in outcome), expected)


@pytest.mark.parametrize(
    ("arithmetic", "cluster", "shared", "count"),
    [
        ("fma", 1, 1 << 20, 6),  # three layers and their gradients
        ("fma", 8, 1 << 17, 6),
        ("fma", 8, 0, 0),
        ("fma", 8, 58_112, 4),  # an H100's: what the first layer has is read from the L2 cache
        ("fma", 1, 58_112, 2),
        ("bfloat16", 8, 58_112, 3),  # half of the first layer, too
    ],
)
def test_weights_stay_in_shared_memory(
    library: ctypes.CDLL, arithmetic: str, cluster: int, shared: int, count: int
) -> None:
    """Of the classic 784-256-128-10, where images, moments and activations leave room."""
    program = [*FLATTEN, *linear(784, 256), *RELU, *linear(256, 128), *RELU, *linear(128, 10)]
    shape, kept = BlockShape(5, 512, cluster, 16, shared), ctypes.c_int32()
    call(library.count_resident_passes, program_of(program, (1, 28, 28)), ARITHMETIC.index(arithmetic), shape, kept)
    assert kept.value == count


@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_no_steps(library: ctypes.CDLL, reverse: bool) -> None:
    tensors, program = tensors_of("convnet", 4)
    options = STOPPING | {"max_steps": 0}
    outcome = run_kernel(library, tensors, program, reverse=reverse, **options)
    assert torch.equal(outcome[0], tensors[0])
    assert_close(outcome, run_reference(tensors, program, **options), 1e-6)


def test_one_class_is_certain(library: ctypes.CDLL) -> None:
    tensors, program = tensors_of("one class", 3)
    images, confidence, loss, steps = run_kernel(library, tensors, program, **STOPPING)
    assert torch.equal(images, tensors[0])
    assert (confidence.tolist(), loss.tolist(), steps.tolist()) == ([1.0] * 3, [0.0] * 3, [0] * 3)


def test_loss_near_certainty(library: ctypes.CDLL) -> None:
    """Losses of 1e-12 keep their digits, though the confidence is 1 in float32."""
    program, x = [*FLATTEN, *linear(4, 2)], torch.full((5, 1, 2, 2), 0.5)
    parameters = torch.tensor([[7.0] * 4 + [-7.0] * 4 + [0.25, -0.25]])
    ids = (torch.tensor(values, dtype=torch.int32) for values in ([0] * 5, [0, 1, 0, 1, 0], range(5)))
    tensors = (x, parameters, *ids)
    loss = run_kernel(library, tensors, program, **(STOPPING | {"max_steps": 0}))[2]
    certain, hopeless = math.log1p(math.exp(-28.5)), 28.5
    expected = torch.tensor([certain, hopeless, certain, hopeless, certain])
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=0)


@pytest.mark.parametrize(("program", "numbers"), NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_stops_where_a_logit_is_not_finite(library: ctypes.CDLL, program: list[int], numbers: list[float]) -> None:
    x, parameters = torch.full((6, 1, 3, 4), 0.5), torch.tensor([numbers])
    ids = (torch.tensor(values, dtype=torch.int32) for values in ([0] * 6, [0, 1, 2] * 2, range(6)))
    images, confidence, loss, steps = run_kernel(library, (x, parameters, *ids), program, **STOPPING)
    assert steps.tolist() == [0] * 6
    assert confidence.isnan().all()
    assert loss.isnan().all()
    assert torch.equal(images, x)


def test_logits_that_are_not_finite_stop_their_restart(library: ctypes.CDLL) -> None:
    tensors, program = tensors_of("mlp", 6, num_models=2)
    tensors[1][1] *= 1e25
    model = tensors[2]
    images, confidence, loss, steps = run_kernel(library, tensors, program, **STOPPING)
    expected = run_reference(tensors, program, torch.float32, **STOPPING)
    assert torch.equal(images[model == 1], tensors[0][model == 1])
    assert torch.stack([confidence, loss])[:, model == 1].isnan().all()
    assert steps.tolist() == expected[3].tolist()
    assert confidence[model == 0].isfinite().all()
