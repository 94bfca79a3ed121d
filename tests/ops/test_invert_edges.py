"""Whole inversions at the edges: degenerate input, logits that are not finite, what the op refuses, and its memory."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from tests.ops.test_ascent_update import BAD_OPTIONS, DEVICES, needs_native
from tests.ops.test_invert import (
    OPTIONS,
    TO_GRADIENT,
    Implementation,
    devices,
    exact,
    implementations,
    invert,
    problem,
    run,
)
from tests.ops.test_invert_bits import assert_same_bits

# ---- Degenerate input


@devices
@implementations
def test_no_restarts(device: str, implementation: Implementation) -> None:
    tensors, program = problem("batch norm", count=0, device=device)
    result = run(tensors, implementation, program=program)
    assert result["x"].shape == (0, 1, 8, 8)
    assert [tuple(result[key].shape) for key in ("confidence", "loss", "steps")] == [(0,)] * 3
    assert result["steps"].dtype == torch.int32


@devices
@implementations
def test_one_class_is_certain_at_once(device: str, implementation: Implementation) -> None:
    tensors, _ = problem("mlp width 1", device=device)
    tensors["parameters"] = torch.randn(2, 36, device=device)
    tensors["label"] = torch.zeros_like(tensors["label"])
    result = run(tensors, implementation, program=[6, 0, 35, 1], confidence_threshold=1.0)
    assert result["steps"].tolist() == [0] * 5
    assert result["confidence"].tolist() == [1.0] * 5
    assert result["loss"].tolist() == [0.0] * 5
    assert torch.equal(result["x"], tensors["x"])


@devices
@implementations
def test_constant_logits_end_by_patience(device: str, implementation: Implementation) -> None:
    tensors, program = problem("batch norm", device=device)
    tensors["parameters"] = torch.zeros_like(tensors["parameters"])
    result = run(tensors, implementation, program=program, patience=4)
    assert result["steps"].tolist() == [4] * 5
    torch.testing.assert_close(result["confidence"], torch.full_like(result["confidence"], 0.25))
    torch.testing.assert_close(result["loss"], torch.full_like(result["loss"], math.log(4)))


@devices
@pytest.mark.parametrize("name", ["mlp 33-16-20", "two pools", "batch norm", "avg-pool"])
@implementations
def test_logits_that_overflow_stop_their_restarts_only(device: str, name: str, implementation: Implementation) -> None:
    tensors, program = problem(name, count=40, device=device)
    clean = run(tensors, implementation, program=program)
    huge = tensors["model"] == 1
    tensors["parameters"][1] = tensors["parameters"][1].abs() * 1e30 + 1e30
    result = run(tensors, implementation, program=program)
    assert 0 < huge.sum() < 40
    assert result["confidence"][huge].isnan().all()
    assert result["loss"][huge].isnan().all()
    assert (result["steps"][huge] == 0).all()
    assert torch.equal(result["x"][huge], tensors["x"][huge])
    for key, value in clean.items():
        torch.testing.assert_close(
            result[key][~huge], value[~huge], rtol=0, atol=0 if implementation is invert else 1e-5
        )


def dense(*rows: float, fan_in: int) -> list[float]:
    """The parameters of a linear layer, each row of the weight one number throughout; no bias."""
    return [*(row for row in rows for _ in range(fan_in)), *(0.0 for _ in rows)]


INFINITE_PAIR = dense(3e38, -3e38, fan_in=12)
NOT_FINITE = {
    "inf": ([6, 0, 12, 3], dense(0.1, 3e38, -0.2, fan_in=12)),
    "-inf": ([6, 0, 12, 3], dense(0.1, -3e38, -0.2, fan_in=12)),
    "nan": ([6, 0, 12, 2, 0, 2, 3], [*INFINITE_PAIR, *dense(0.1, 1.0, -0.2, fan_in=2)]),
    "nan before relu": (
        [6, 0, 12, 2, 0, 2, 1, 3, 0, 1, 3],
        [*INFINITE_PAIR, *dense(1.0, fan_in=2), *dense(0.1, 1.0, -0.2, fan_in=1)],
    ),
    "inf behind a dead relu": (
        [6, 0, 12, 1, 3, 0, 1, 1, 3, 0, 1, 3],
        [*dense(-1.0, fan_in=12), 1.0, 3e38, *dense(10.0, -10.0, 1.0, fan_in=1)],
    ),
}


@devices
@implementations
@pytest.mark.parametrize(("program", "numbers"), NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_logits_that_are_not_finite_stop_their_restarts(
    device: str, program: list[int], numbers: list[float], implementation: Implementation
) -> None:
    """Whichever of the classes is ascended, and be it one logit only."""
    tensors = {
        "x": torch.full((6, 1, 3, 4), 0.5, device=device),
        "parameters": torch.tensor([numbers], device=device),
        "model": torch.zeros(6, dtype=torch.int32, device=device),
        "label": torch.arange(6, dtype=torch.int32, device=device) % 3,
        "restart": torch.arange(6, dtype=torch.int32, device=device),
    }
    result = run(tensors, implementation, program=program)
    assert result["steps"].tolist() == [0] * 6
    assert result["confidence"].isnan().all()
    assert result["loss"].isnan().all()
    assert torch.equal(result["x"], tensors["x"])


@devices
def test_certainty_keeps_its_digits(device: str) -> None:
    """Where 1 - p is far below the last bit of p: the loss, and a gradient that is proportional to 1 - p."""
    pixels, margins = 4, [9.0, 12.0, 16.0, 28.5]
    rows = [[m / (2 * pixels * 0.5)] * pixels + [-m / (2 * pixels * 0.5)] * pixels + [0.0, 0.0] for m in margins]
    tensors = {
        "x": torch.full((4, 1, 2, 2), 0.5, device=device),
        "parameters": torch.tensor(rows, device=device),
        "model": torch.arange(4, dtype=torch.int32, device=device),
        "label": torch.zeros(4, dtype=torch.int32, device=device),
        "restart": torch.arange(4, dtype=torch.int32, device=device),
    }
    program = [6, 0, 4, 2]
    loss = run(tensors, program=program, max_steps=0)["loss"].double().cpu()
    torch.testing.assert_close(loss, torch.tensor(margins).double().neg().exp().log1p(), rtol=1e-6, atol=0)
    gradient = run(tensors, **(TO_GRADIENT | {"program": program, "learning_rate": 1e30}))["x"].double().cpu() / 1e30
    doubt = torch.tensor(margins).double().neg().sigmoid()[:, None]
    expected = doubt * 2 * tensors["parameters"][:, :4].double().cpu()
    torch.testing.assert_close(gradient.flatten(1), expected, rtol=1e-5, atol=0)


@devices
@implementations
def test_no_steps_tell_the_confidence_of_the_start(device: str, implementation: Implementation) -> None:
    tensors, program = problem("two pools", device=device)
    result, expected = (
        run(tensors, implementation, program=program, max_steps=0),
        exact(tensors, program=program, max_steps=0),
    )
    assert torch.equal(result["x"], tensors["x"])
    assert result["steps"].tolist() == [0] * 5
    for key in ("confidence", "loss"):
        torch.testing.assert_close(result[key].cpu().double(), expected[key], rtol=1e-5, atol=1e-6)


@devices
def test_box_holds(device: str) -> None:
    tensors, program = problem("conv 3x3", device=device)
    result = run(tensors, program=program, learning_rate=1e4, lower=0.25, upper=0.5)
    assert set(result["x"].unique().tolist()) == {0.25, 0.5}


# ---- What is refused


@needs_native
def test_unknown_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, program = problem("mlp 17-100")
    monkeypatch.setenv("PYDRIFT_SIMD", "sse9")
    assert_refused(tensors, {"program": program}, "PYDRIFT_SIMD must be scalar, avx2 or avx512, got 'sse9'", prefix="")


def assert_refused(
    tensors: dict[str, Tensor], options: dict[str, object], message: str, prefix: str = "invert: "
) -> None:
    before = {name: tensor.detach().clone() for name, tensor in tensors.items()}
    with pytest.raises(ValueError) as refusal:
        invert(*tensors.values(), **(OPTIONS | options))
    assert str(refusal.value) == prefix + message
    assert_same_bits({name: tensor.detach() for name, tensor in tensors.items()}, before)


IMAGES = "x must be [N, C, H, W] float32 and contiguous"
NUMBERS = "parameters must be [models, 117] float32, contiguous and on the device of x"
BAD_TENSORS = [
    # argument, what is passed instead, what it must be, what it is
    ("x", lambda t: t[0], IMAGES, "[1, 3, 4] float32 on the CPU"),
    ("x", lambda t: t.double(), IMAGES, "[5, 1, 3, 4] float64 on the CPU"),
    ("x", lambda t: t.mT.contiguous().mT, IMAGES, "[5, 1, 3, 4] float32 on the CPU, not contiguous"),
    ("parameters", lambda t: t[0], NUMBERS, "[117] float32 on the CPU"),
    ("parameters", lambda t: t[:, 1:].clone(), NUMBERS, "[2, 116] float32 on the CPU"),
    ("parameters", lambda t: t.half(), NUMBERS, "[2, 117] float16 on the CPU"),
    ("parameters", lambda t: t.mT.contiguous().mT, NUMBERS, "[2, 117] float32 on the CPU, not contiguous"),
    *(
        (name, spoil, f"{name} must be [5] int32, contiguous and on the device of x", got)
        for name in ("model", "label", "restart")
        for spoil, got in (
            (lambda t: t[:4], "[4] int32 on the CPU"),
            (lambda t: t[:, None], "[5, 1] int32 on the CPU"),
            (lambda t: t.long(), "[5] int64 on the CPU"),
            (lambda t: t[:1].expand(5), "[5] int32 on the CPU, not contiguous"),
        )
    ),
]
BAD_SETTINGS = [
    *BAD_OPTIONS,
    ({"jitter": -1}, "jitter must be in [0, 2^24), got -1"),
    ({"jitter": 2**24}, "jitter must be in [0, 2^24), got 16777216"),
    ({"max_steps": -1}, "max_steps must be in [0, 2^31), got -1"),
    ({"precision": "half"}, "precision must be 'float32', '3xtf32', 'tf32' or 'bfloat16', got 'half'"),
    ({"precision": "tf32"}, "precision 'tf32' needs a GPU; on the CPU there is 'float32'"),
    ({"max_steps": 2**31}, "max_steps must be in [0, 2^31), got 2147483648"),
]
SIZES = "kernel and stride must be in [1, 4096] and padding in [0, 4096], got"
BAD_PROGRAMS = [
    ([], "must end in flat logits, one per class"),
    ([3], "must end in flat logits, one per class"),
    ([7], "layer 0: unknown kind 7"),
    ([6, 3, -1], "layer 2: unknown kind -1"),
    ([2**32], "layer 0: unknown kind 4294967296"),
    ([6, 0, 12], "layer 1: linear is cut off"),
    ([1, 1, 2, 3, 3, 1, 1, 0], "layer 0: conv2d is cut off"),
    ([2], "layer 0: affine is cut off"),
    ([4, 2, 2, 2, 2, 0], "layer 0: max_pool2d is cut off"),
    ([5, 2, 2, 2], "layer 0: avg_pool2d is cut off"),
    ([0, 12, 2], "layer 0: linear needs a flatten before it"),
    ([6, 0, 11, 2], "layer 1: takes 11 channels, but gets 12"),
    ([6, 0, 12, 0], "layer 1: makes 0 channels"),
    ([6, 0, 12, 2**24 + 1], "layer 1: makes 16777217 channels"),
    ([6, 0, 12, -2], "layer 1: makes -2 channels"),
    ([6, 0, 12 + 2**32, 2], "layer 1: takes 4294967308 channels, but gets 12"),
    ([1, 3, 2, 3, 3, 1, 1, 0, 0], "layer 0: takes 3 channels, but gets 1"),
    ([1, 1, 0, 3, 3, 1, 1, 0, 0], "layer 0: makes 0 channels"),
    ([1, 1, 2, 0, 3, 1, 1, 0, 0], f"layer 0: {SIZES} 0"),
    ([1, 1, 2, 3, 3, 1, 4097, 0, 0], f"layer 0: {SIZES} 4097"),
    ([1, 1, 2, 3, 3, 1, 1, 0, -1], f"layer 0: {SIZES} -1"),
    ([1, 1, 2, 4, 3, 1, 1, 0, 0], "layer 0: a window of 4x3 does not fit 3x4"),
    ([6, 1, 12, 2, 1, 1, 1, 1, 0, 0], "layer 1: a window of 1x1 does not fit 1x1 (flat)"),
    ([6, 4, 1, 1, 1, 1, 0, 0], "layer 1: a window of 1x1 does not fit 1x1 (flat)"),
    ([2, 2], "layer 0: takes 2 channels, but gets 1"),
    ([1, 1, 1, 1, 1, 1, 1, 9, 9, 4, 9, 9, 1, 1, 0, 0], "layer 1: a max-pooling window may have 64 positions, got 81"),
    ([4, 3, 3, 1, 1, 2, 0], "layer 0: padding of pooling may be half its kernel at most"),
    ([4, 2, 5, 1, 1, 0, 0], "layer 0: a window of 2x5 does not fit 3x4"),
    ([5, 4, 1, 1, 1], "layer 0: a window of 4x1 does not fit 3x4"),
    ([1, 1, 2**21, 1, 1, 1, 1, 0, 0], "layer 0: makes more than 16777216 values"),
    ([1, 1, 1, 1, 1, 1, 1, 4096, 4096], "layer 0: makes more than 16777216 values"),
    ([6, 0, 12, 2**20, 0, 2**20, 2**9], "layer 2: more than 268435456 parameters"),
]


def small_problem(device: str = "cpu") -> tuple[dict[str, Tensor], list[int]]:
    generator = torch.Generator().manual_seed(0)
    tensors = {
        "x": torch.rand(5, 1, 3, 4, generator=generator),
        "parameters": torch.randn(2, 12 * 9 + 9, generator=generator),
        "model": torch.tensor([0, 1, 1, 0, 1], dtype=torch.int32),
        "label": torch.arange(5, dtype=torch.int32),
        "restart": torch.arange(5, dtype=torch.int32),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}, [6, 0, 12, 9]


@needs_native
@devices
@pytest.mark.parametrize(("name", "spoil", "must_be", "got"), BAD_TENSORS)
def test_bad_tensors_are_refused(
    device: str, name: str, spoil: Callable[[Tensor], Tensor], must_be: str, got: str
) -> None:
    tensors, program = small_problem(device)
    got = got.replace("the CPU", "the CPU" if device == "cpu" else "GPU 0")
    assert_refused(tensors | {name: spoil(tensors[name])}, {"program": program}, f"{must_be}, got {got}")


@needs_native
@pytest.mark.parametrize("shape", [(5, 0, 3, 4), (5, 1, 0, 4), (5, 1, 3, 0)], ids=str)
def test_images_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    tensors, program = small_problem()
    message = f"C, H and W must be >= 1 and C * H * W <= 16777216, got {list(shape)} float32 on the CPU"
    assert_refused(tensors | {"x": torch.empty(shape)}, {"program": program}, message)


@needs_native
def test_images_that_are_too_large_are_refused() -> None:
    tensors = {name: tensor[:0] for name, tensor in small_problem()[0].items()}
    for shape in ([0, 2**24 + 1, 1, 1], [0, 1, 4096, 4097], [0, 2**30, 2**30, 1]):
        message = f"C, H and W must be >= 1 and C * H * W <= 16777216, got {shape} float32 on the CPU"
        assert_refused(tensors | {"x": torch.empty(shape)}, {"program": [6]}, message)


@needs_native
@pytest.mark.parametrize(("change", "message"), BAD_SETTINGS, ids=[message for _, message in BAD_SETTINGS])
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    tensors, program = small_problem()
    assert_refused(tensors, {"program": program} | change, message)


@needs_native
@pytest.mark.parametrize(("program", "message"), BAD_PROGRAMS, ids=[message for _, message in BAD_PROGRAMS])
def test_bad_programs_are_refused(program: list[int], message: str) -> None:
    assert_refused(small_problem()[0], {"program": program}, f"program: {message}")


@needs_native
def test_maps_too_large_for_a_thread_are_refused() -> None:
    """Borders of 4096 rows around 32765 pixels."""
    tensors = small_problem()[0] | {"x": torch.zeros(5, 1, 1, 32_765)}
    program = [1, 1, 1, 1, 1, 4096, 4096, 4096, 0, 6, 0, 24, 2]
    tensors |= {"parameters": torch.zeros(2, 2 + 24 * 2 + 2), "label": torch.zeros(5, dtype=torch.int32)}
    assert_refused(tensors, {"program": program}, "program: its feature maps need more than 1024 MiB a thread")


@needs_native
def test_strides_that_would_be_planned_for_minutes_are_refused() -> None:
    """Each position within a stride has its own pass back: of 1024x1024 that would be a million."""
    tensors = small_problem()[0] | {"x": torch.zeros(5, 1, 1024, 1024), "parameters": torch.zeros(2, 2**20 + 1)}
    program = [1, 1, 1, 1024, 1024, 1024, 1024, 0, 0, 6]
    message = "program: layer 0: a convolution's strides may have 4096 positions, got 1024x1024"
    assert_refused(tensors, {"program": program}, message)


@needs_native
def test_number_of_parameters_does_not_overflow() -> None:
    """2^24 channels to 2^24 by a window of 2^24 positions: 2^72 weights, which 64 bits would see as none."""
    tensors = {name: tensor[:0] for name, tensor in small_problem()[0].items()}
    program = [1, 2**24, 2**24, 4096, 4096, 4096, 4096, 2048, 2048, 6]
    message = "program: layer 0: more than 268435456 parameters"
    assert_refused(tensors | {"x": torch.empty(0, 2**24, 1, 1)}, {"program": program}, message)


@implementations
@devices
@pytest.mark.parametrize(
    ("name", "limit", "value"), [("model", 2, 2), ("model", 2, -1), ("label", 9, 9), ("restart", 65_536, 65_536)]
)
def test_ids_out_of_range_are_refused(
    device: str,
    name: str,
    limit: int,
    value: int,
    implementation: Implementation,
) -> None:
    tensors, program = small_problem(device)
    tensors[name][3] = value
    x = tensors["x"].clone()
    with pytest.raises(ValueError) as refusal:
        implementation(*tensors.values(), **(OPTIONS | {"program": program}))
    assert str(refusal.value) == f"invert: {name} must be in [0, {limit}), got {value} at index 3"
    assert torch.equal(tensors["x"], x)


@pytest.mark.skipif(len(DEVICES) == 1, reason="needs a GPU")
@pytest.mark.parametrize("name", ["parameters", "model", "label", "restart"])
def test_tensors_on_two_devices_are_refused(name: str) -> None:
    tensors, program = small_problem("cuda")
    tensors[name] = tensors[name].cpu()
    shape, kind = ("[2, 117]", "float32") if name == "parameters" else ("[5]", "int32")
    must_be = "[models, 117] float32" if name == "parameters" else "[5] int32"
    message = f"{name} must be {must_be}, contiguous and on the device of x, got {shape} {kind} on the CPU"
    assert_refused(tensors, {"program": program}, message)


@devices
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_parameters_that_are_not_finite_are_refused(device: str, value: float) -> None:
    tensors, program = small_problem(device)
    tensors["parameters"][1, 116] = value
    assert_refused(tensors, {"program": program}, "parameters of model 1 are not finite")


@pytest.mark.parametrize("name", ["x", "parameters"])
def test_requires_grad_is_refused(name: str) -> None:
    tensors, program = small_problem()
    tensors[name].requires_grad_()
    message = f"{name} must not require grad (invert is not differentiable)"
    assert_refused(tensors, {"program": program}, message)
