"""The op against its reference in plain torch, on every device present."""

import io
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from pydrift import ops
from pydrift.ops import AscentOptions, native, native_status, reference
from tests.native_harness import by_name

ascent_update = by_name(ops.ascent_update, AscentOptions)

DEVICES = ["cpu", *(["cuda"] if torch.cuda.is_available() else [])]
SHAPES = [(5, 1, 8, 8), (3, 2, 1, 7), (3, 2, 7, 1), (2, 1, 1, 1), (4, 3, 33, 35), (67, 1, 28, 28)]
OPTIONS = {
    "optimizer": "adam",
    "learning_rate": 0.1,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "tv_weight": 0.02,
    "l2_weight": 0.003,
    "lower": 0.0,
    "upper": 1.0,
    "confidence_threshold": 0.95,
    "patience": 3,
}
NAMES = (
    "x",
    "gradient",
    "first_moment",
    "second_moment",
    "log_probability",
    "best_cost",
    "steps_without_improvement",
    "steps",
    "active",
)
needs_native = pytest.mark.skipif(not native_status().cpu, reason="the native CPU library is not loaded")


def state_of(shape: tuple[int, ...], device: str = "cpu", seed: int = 0) -> dict[str, Tensor]:
    """The tensors of one call in the order of the arguments: a running ascent of all samples."""
    generator = torch.Generator().manual_seed(seed)
    samples = shape[:1]
    state = {
        "x": torch.rand(shape, generator=generator),
        "gradient": 0.3 * torch.randn(shape, generator=generator),
        "first_moment": 0.1 * torch.randn(shape, generator=generator),
        "second_moment": 0.01 * torch.rand(shape, generator=generator),
        "log_probability": -3 * torch.rand(samples, generator=generator),
        "best_cost": torch.rand(samples, generator=generator),
        "steps_without_improvement": torch.randint(0, 2, samples, generator=generator, dtype=torch.int32),
        "steps": torch.randint(0, 50, samples, generator=generator, dtype=torch.int32),
        "active": torch.rand(samples, generator=generator) < 0.8,
    }
    return {name: tensor.to(device) for name, tensor in state.items()}


def clones(state: dict[str, Tensor], dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """A copy of the tensors, floating ones as `dtype`."""
    return {
        name: tensor.to(dtype) if dtype and tensor.is_floating_point() else tensor.clone()
        for name, tensor in state.items()
    }


def assert_same_bits(state: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    for name in NAMES:
        torch.testing.assert_close(state[name], expected[name], rtol=0, atol=0, equal_nan=True, msg=f"{name} differs")


# ---- Agreement with the reference


@needs_native
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_opcheck(optimizer: str) -> None:
    options = OPTIONS | {"optimizer": optimizer}
    torch.library.opcheck(torch.ops.pydrift.ascent_update.default, tuple(state_of((3, 2, 5, 7)).values()), options)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_matches_reference(device: str, optimizer: str, shape: tuple[int, ...]) -> None:
    options = OPTIONS | {"optimizer": optimizer}
    state = state_of(shape, device)
    expected = clones(state)
    for step in range(3):
        gradient = 0.3 * torch.randn(shape, generator=torch.Generator().manual_seed(step))
        for tensors, function in ((state, ascent_update), (expected, reference.ascent_update)):
            tensors["gradient"].copy_(gradient)
            function(*tensors.values(), **options)
    for name in NAMES:
        torch.testing.assert_close(state[name], expected[name], rtol=1e-5, atol=1e-6, msg=f"{name} differs")
    for name in ("x", "first_moment", "second_moment"):
        assert torch.linalg.norm(state[name] - expected[name]) <= 1e-6 * torch.linalg.norm(expected[name])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("steps", [0, 1, 1000, 2_000_000])
def test_one_step_against_float64(device: str, optimizer: str, steps: int) -> None:
    options = OPTIONS | {"optimizer": optimizer, "lower": -math.inf, "upper": math.inf}
    state = state_of((4, 3, 9, 11), device)
    state["steps"].fill_(steps)
    state["active"].fill_(True)
    before, exact = clones(state), clones(state, torch.float64)
    ascent_update(*state.values(), **options)
    reference.ascent_update(*exact.values(), **options)
    assert state["steps"].tolist() == (before["steps"] + exact["active"].to(torch.int32)).tolist()
    for name in ("x", "first_moment", "second_moment"):
        error = torch.linalg.norm(state[name].double() - exact[name]) / torch.linalg.norm(exact[name])
        assert error <= 1e-6, name


def test_prior_gradient_against_autograd() -> None:
    x = torch.rand(2, 3, 5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1)).requires_grad_()
    tv = x.diff(dim=2).square().sum() + x.diff(dim=3).square().sum()
    (0.7 * tv + 0.2 * x.square().sum()).backward()
    torch.testing.assert_close(reference.prior_gradient(x.detach(), 0.7, 0.2), x.grad, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("device", DEVICES)
def test_adam_step_is_torch_adam(device: str) -> None:
    """An outside witness: the update of torch.optim.Adam, without priors and far from the box."""
    options = OPTIONS | {"tv_weight": 0.0, "l2_weight": 0.0, "lower": -100.0, "upper": 100.0}
    state = state_of((3, 1, 6, 5), device)
    for name, start in {
        "first_moment": 0,
        "second_moment": 0,
        "steps": 0,
        "active": True,
        "steps_without_improvement": 0,
    }.items():
        state[name].fill_(start)
    state["log_probability"].fill_(-1.0)
    state["best_cost"].fill_(math.inf)
    x = state["x"].clone().requires_grad_()
    adam = torch.optim.Adam([x], lr=0.1, betas=(0.9, 0.999), eps=1e-8, maximize=True)
    for step in range(3):
        gradient = torch.randn(x.shape, generator=torch.Generator().manual_seed(step)).to(device)
        state["gradient"].copy_(gradient)
        state["log_probability"].add_(0.1)  # keeps improving, so nothing stops
        ascent_update(*state.values(), **options)
        x.grad = gradient
        adam.step()
    torch.testing.assert_close(state["x"], x.detach(), rtol=1e-5, atol=1e-6)


# ---- The same bits, always


def run_with(state: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    result = clones(state)
    for _ in range(2):
        ascent_update(*result.values(), **(OPTIONS | options))
    return result


@needs_native
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_variants_and_reference_give_the_same_bits(
    monkeypatch: pytest.MonkeyPatch, optimizer: str, shape: tuple[int, ...]
) -> None:
    state = state_of(shape)
    expected = clones(state)
    for _ in range(2):
        reference.ascent_update(*expected.values(), **(OPTIONS | {"optimizer": optimizer}))
    for variant in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", variant)
        assert native_status().build["simd"] == variant
        assert_same_bits(run_with(state, optimizer=optimizer), expected)


@needs_native
def test_unknown_variant_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYDRIFT_SIMD", "sse9")
    message = "PYDRIFT_SIMD must be scalar, avx2 or avx512, got 'sse9'"
    assert message in native_status().reasons
    with pytest.raises(ValueError, match=message):
        run_with(state_of((2, 1, 4, 4)))


def test_threads_do_not_matter() -> None:
    state = state_of((200, 3, 17, 19))
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        expected = run_with(state)
        torch.set_num_threads(2)
        assert_same_bits(run_with(state), expected)
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize("device", DEVICES)
def test_samples_do_not_depend_on_the_batch(device: str) -> None:
    state = state_of((7, 2, 5, 6), device)
    whole = run_with(state)
    for sample in range(7):
        alone = run_with({name: tensor[sample : sample + 1] for name, tensor in state.items()})
        assert_same_bits(alone, {name: tensor[sample : sample + 1] for name, tensor in whole.items()})


@pytest.mark.slow
def test_plain_torch_path_gives_the_same_bits_after_one_warning() -> None:
    program = """
import sys, torch
from tests.ops.test_ascent_update import run_with, state_of
from pydrift.ops import native_status
result = run_with(state_of((5, 1, 8, 8)))
print(native_status(), [native_status().describe(device) for device in ("cpu", "cuda")], file=sys.stderr)
torch.save(result, sys.stdout.buffer)
"""
    environment = os.environ | {"PYDRIFT_NATIVE": "0", "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, check=True)
    why = "the environment variable PYDRIFT_NATIVE=0 turns the native code off"
    errors = done.stderr.decode()
    assert errors.count("RuntimeWarning") == 1
    assert f"RuntimeWarning: pydrift runs on plain torch on cpu, more slowly: {why}" in errors
    assert f"NativeStatus(cpu=False, cuda=False, reasons=('{why}',), build={{}})" in errors
    assert errors.count(f"'none (plain torch): {why}'") == 2
    assert_same_bits(torch.load(io.BytesIO(done.stdout), weights_only=True), run_with(state_of((5, 1, 8, 8))))


# ---- The stop rule and values that are not finite

STOP_CASES = {
    # log_probability, best_cost, steps_without_improvement -> best_cost, steps_without_improvement, active
    "first cost": (math.log(0.5), math.inf, 0, 0.5, 0, True),
    "cost falls": (math.log(0.5), 0.75, 2, 0.5, 0, True),
    "same cost": (math.log(0.5), 0.5, 0, 0.5, 1, True),
    "cost rises": (math.log(0.25), 0.5, 1, 0.5, 2, True),
    "patience over": (math.log(0.25), 0.5, 2, 0.5, 3, False),
    "confident": (math.log(0.96), 0.5, 2, 0.04, 0, False),
    "certain": (0.0, 0.5, 0, 0.0, 0, False),
    "impossible": (-math.inf, math.inf, 0, 1.0, 0, True),
    "NaN": (math.nan, 0.5, 0, 0.5, 1, True),
    "NaN, patience over": (math.nan, 0.5, 2, 0.5, 3, False),
}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("case", STOP_CASES.values(), ids=STOP_CASES.keys())
@pytest.mark.parametrize("implementation", [ascent_update, reference.ascent_update], ids=["op", "reference"])
def test_stop_rule(device: str, case: tuple[float, ...], implementation: Callable[..., None]) -> None:
    log_probability, best_cost, steps_without_improvement, best_cost_after, count_after, active_after = case
    state = state_of((1, 1, 3, 3), device)
    for name, value in {
        "log_probability": log_probability,
        "best_cost": best_cost,
        "steps_without_improvement": steps_without_improvement,
        "steps": 7,
    }.items():
        state[name].fill_(value)
    state["active"].fill_(True)
    before = clones(state)
    implementation(*state.values(), **OPTIONS)
    assert state["best_cost"].item() == pytest.approx(best_cost_after, abs=1e-6)
    assert state["steps_without_improvement"].item() == count_after
    assert state["active"].item() is active_after
    assert state["steps"].item() == 7 + active_after
    for name in ("x", "first_moment", "second_moment"):
        assert torch.equal(state[name], before[name]) is not active_after


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("implementation", [ascent_update, reference.ascent_update], ids=["op", "reference"])
def test_gradient_that_is_not_finite_stops_its_sample_only(
    device: str, value: float, implementation: Callable[..., None]
) -> None:
    state = state_of((3, 2, 4, 5), device)
    state["active"].fill_(True)
    state["log_probability"].fill_(math.log(0.5))
    state["best_cost"].fill_(0.75)
    clean = clones(state)
    state["gradient"][1, 1, 3, 4] = value
    before = clones(state)
    implementation(*state.values(), **OPTIONS)
    ascent_update(*clean.values(), **OPTIONS)
    assert state["active"].tolist() == [True, False, True]
    assert state["best_cost"].tolist() == [0.5, 0.5, 0.5]
    assert state["steps"][1] == before["steps"][1]
    for name in ("x", "first_moment", "second_moment"):
        assert torch.equal(state[name][1], before[name][1])
        assert torch.equal(state[name][[0, 2]], clean[name][[0, 2]])


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("implementation", [ascent_update, reference.ascent_update], ids=["op", "reference"])
def test_inactive_samples_are_left_alone(device: str, implementation: Callable[..., None]) -> None:
    state = state_of((2, 1, 4, 4), device)
    state["active"].fill_(False)
    for name in ("x", "gradient", "first_moment", "second_moment", "log_probability", "best_cost"):
        state[name][0] = math.nan
    before = clones(state)
    implementation(*state.values(), **OPTIONS)
    assert_same_bits(state, before)


@pytest.mark.parametrize("device", DEVICES)
def test_momentum_needs_no_second_moment(device: str) -> None:
    state = state_of((3, 1, 4, 4), device)
    expected = run_with(state, optimizer="momentum")
    result = run_with(state | {"second_moment": torch.empty(0, device=device)}, optimizer="momentum")
    assert_same_bits(result | {"second_moment": expected["second_moment"]}, expected)


@pytest.mark.parametrize("device", DEVICES)
def test_box_holds(device: str) -> None:
    result = run_with(state_of((4, 1, 6, 6), device), learning_rate=1e4, lower=0.25, upper=0.5, patience=9)
    moved = result["x"][result["active"]]
    assert moved.numel() > 0
    assert set(moved.unique().tolist()) == {0.25, 0.5}


# ---- What is refused

IMAGE, SAMPLES = "[3, 2, 4, 5]", "[3]"
BAD_TENSORS = [
    # argument, what is passed instead, what it must be, what it is
    ("x", lambda t: t[0], "[N, C, H, W] float32 and contiguous", "[2, 4, 5] float32 on the CPU"),
    ("x", lambda t: t.double(), "[N, C, H, W] float32 and contiguous", f"{IMAGE} float64 on the CPU"),
    (
        "x",
        lambda t: t.mT.contiguous().mT,
        "[N, C, H, W] float32 and contiguous",
        f"{IMAGE} float32 on the CPU, not contiguous",
    ),
    ("gradient", lambda t: t[:2], f"{IMAGE} float32", "[2, 2, 4, 5] float32 on the CPU"),
    ("gradient", lambda t: t[:1].expand_as(t), f"{IMAGE} float32", f"{IMAGE} float32 on the CPU, not contiguous"),
    ("first_moment", lambda t: t.bfloat16(), f"{IMAGE} float32", f"{IMAGE} bfloat16 on the CPU"),
    ("second_moment", lambda t: t.new_empty(0), f"{IMAGE} float32", "[0] float32 on the CPU"),
    ("log_probability", lambda t: t[:, None], f"{SAMPLES} float32", "[3, 1] float32 on the CPU"),
    ("best_cost", lambda t: t.half(), f"{SAMPLES} float32", "[3] float16 on the CPU"),
    ("steps_without_improvement", lambda t: t.long(), f"{SAMPLES} int32", "[3] int64 on the CPU"),
    ("steps", lambda t: t.new_zeros(4), f"{SAMPLES} int32", "[4] int32 on the CPU"),
    ("active", lambda t: t.to(torch.int32), f"{SAMPLES} bool", "[3] int32 on the CPU"),
]
BAD_OPTIONS = [
    ({"optimizer": "sgd"}, "optimizer must be 'adam' or 'momentum', got 'sgd'"),
    ({"learning_rate": 0.0}, "learning_rate must be finite and > 0, got 0"),
    ({"epsilon": math.inf}, "epsilon must be finite and > 0, got inf"),
    ({"beta1": 1.0}, "beta1 must be in [0, 1), got 1"),
    ({"beta2": -0.5}, "beta2 must be in [0, 1), got -0.5"),
    ({"tv_weight": -1.0}, "tv_weight must be finite and >= 0, got -1"),
    ({"l2_weight": math.nan}, "l2_weight must be finite and >= 0, got nan"),
    ({"lower": 1.0, "upper": 0.5}, "lower must be <= upper, got 1 and 0.5"),
    ({"confidence_threshold": 0.0}, "confidence_threshold must be > 0, got 0"),
    ({"patience": 0}, "patience must be >= 1, got 0"),
]


def assert_refused(state: dict[str, Tensor], options: dict[str, object], message: str) -> None:
    before = clones(state)
    with pytest.raises(ValueError) as refusal:
        ascent_update(*state.values(), **options)
    assert str(refusal.value) == f"ascent_update: {message}"
    assert_same_bits(state, before)


@needs_native
@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize(("name", "spoil", "must_be", "got"), BAD_TENSORS)
def test_bad_tensors_are_refused(
    device: str, name: str, spoil: Callable[[Tensor], Tensor], must_be: str, got: str
) -> None:
    state = state_of((3, 2, 4, 5), device)
    place = "the CPU" if device == "cpu" else "GPU 0"
    where = "" if name == "x" else ", contiguous and on the device of x"
    message = f"{name} must be {must_be}{where}, got {got.replace('the CPU', place)}"
    assert_refused(state | {name: spoil(state[name])}, OPTIONS, message)


@needs_native
@pytest.mark.parametrize("shape", [(3, 0, 4, 5), (3, 1, 0, 5), (0, 2, 3, 0)], ids=str)
def test_images_without_pixels_are_refused(shape: tuple[int, ...]) -> None:
    assert_refused(state_of(shape), OPTIONS, f"C, H and W must be >= 1, got {list(shape)} float32 on the CPU")


@needs_native
@pytest.mark.parametrize(("change", "message"), BAD_OPTIONS, ids=[next(iter(change)) for change, _ in BAD_OPTIONS])
def test_bad_options_are_refused(change: dict[str, object], message: str) -> None:
    assert_refused(state_of((3, 2, 4, 5)), OPTIONS | change, message)


@pytest.mark.skipif(len(DEVICES) == 1, reason="needs a GPU")
def test_tensors_on_two_devices_are_refused() -> None:
    state = state_of((3, 2, 4, 5), "cuda")
    message = "steps_without_improvement must be [3] int32, contiguous and on the device of x, got [3] int32 on the CPU"
    assert_refused(state | {"steps_without_improvement": state["steps_without_improvement"].cpu()}, OPTIONS, message)


@pytest.mark.parametrize("name", ["x", "gradient", "first_moment", "second_moment", "log_probability", "best_cost"])
def test_requires_grad_is_refused(name: str) -> None:
    state = state_of((2, 1, 3, 3))
    state[name] = state[name].requires_grad_()
    message = f"ascent_update: {name} must not require grad (ascent_update is not differentiable)"
    with pytest.raises(ValueError) as refusal:
        ascent_update(*state.values(), **OPTIONS)
    assert str(refusal.value) == message


@pytest.mark.parametrize("device", DEVICES)
def test_no_samples(device: str) -> None:
    ascent_update(*state_of((0, 3, 4, 5), device).values(), **OPTIONS)
