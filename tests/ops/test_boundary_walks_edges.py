"""Walks to the decision boundary at the edges: degenerate input, what is not finite, refusals, and the memory."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from pydrift.ops import BoundaryWalks
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_boundary_walks import (
    OF_A_WALK,
    OPTIONS,
    Arguments,
    all_walks,
    assert_same_bits,
    both_walks,
    implementations,
    of,
    on,
    only,
    run,
    task,
)
from tests.ops.test_invert import architectures, devices
from tests.ops.test_invert_edges import NOT_FINITE, SIZES

# ---- Degenerate input


@devices
@implementations
@both_walks
def test_no_walks(device: str, op: str, implementation: str) -> None:
    arguments = only(slice(0, 0), task(op, "batch norm", device=device))
    for images in (arguments["x"], arguments["x"][:0]):
        result = run(op, arguments | {"x": images}, implementation)
        assert [tuple(part.shape) for part in result] == [(0,)] * 3
        assert [part.dtype for part in result] == [torch.float32, torch.int32, torch.int32]


@devices
@implementations
@both_walks
def test_walks_that_are_there_or_may_not_go(device: str, op: str, implementation: str) -> None:
    arguments = task(op, "batch norm", device=device)
    whole = run(op, arguments, implementation)
    start = run(op, arguments, implementation, max_steps=0)
    assert start.steps.tolist() == start.distance.tolist() == [0] * len(arguments["model"])
    there = (start.prediction == arguments["label"]) == (op == "min_gd")
    assert 0 < there.sum() < len(there)
    assert torch.equal(whole.steps == 0, there)
    assert_same_bits(of(there, whole), of(there, start))


@devices
@implementations
@both_walks
def test_constant_network(device: str, op: str, implementation: str) -> None:
    """Equal logits: the first class is the prediction. Without a gradient nothing moves; a blind walk goes on."""
    arguments = task(op, "batch norm", device=device)
    arguments["parameters"] = torch.zeros_like(arguments["parameters"])
    result, is_blind = run(op, arguments, implementation), op == "blind_walk"
    assert not result.prediction.any()
    assert torch.equal(result.steps, 40 * (is_blind & (arguments["label"] == 0)).int())
    assert torch.equal(result.distance > 0, result.steps > 0)


@devices
@implementations
def test_blind_walk_begins_within_the_box(device: str, implementation: str) -> None:
    arguments = task("blind_walk", "conv 3x3", device=device)
    result = run("blind_walk", arguments, implementation, lower=0.25, upper=0.5, max_steps=0)
    begun = arguments["x"].clamp(0.25, 0.5)
    change = (begun - arguments["x"]).flatten(1)[arguments["image"].long()]
    norms = torch.stack([change.abs().amax(1), change.norm(dim=1), change.abs().sum(1)])
    torch.testing.assert_close(result.distance, norms.gather(0, arguments["norm"][None].long())[0])
    there = run("blind_walk", arguments | {"x": begun}, implementation, max_steps=0)
    assert torch.equal(result.prediction, there.prediction)


# ---- Not finite


@devices
@implementations
@both_walks
def test_models_that_overflow_stop_their_walks_only(device: str, op: str, implementation: str) -> None:
    arguments = task(op, "two pools", device=device)
    clean, huge = run(op, arguments, implementation), arguments["model"] == 1
    arguments["parameters"][1] = arguments["parameters"][1].abs() * 1e30 + 1e30
    result = run(op, arguments, implementation)
    assert 0 < huge.sum() < len(huge)
    assert_failed(BoundaryWalks(*of(huge, result)))
    assert_same_bits(of(~huge, result), of(~huge, clean))


def assert_failed(walks: BoundaryWalks) -> None:
    assert walks.distance.isnan().all()
    assert walks.prediction.tolist() == [-1] * len(walks.prediction)
    assert walks.steps.tolist() == [0] * len(walks.steps)


@devices
@implementations
@both_walks
def test_an_image_that_is_not_finite_stops_its_walks_only(device: str, op: str, implementation: str) -> None:
    """Though a place that one of its walks leaves is taken by a walk of another image."""
    arguments = task(op, "mlp 17-100", num_images=9, device=device)
    spoilt = arguments["image"] == 2
    clean = run(op, arguments, implementation)
    arguments["x"][2, 0, 3, 4] = math.nan
    result = run(op, arguments, implementation)
    assert spoilt.sum() > 50
    assert_failed(BoundaryWalks(*of(spoilt, result)))
    if implementation == "op":
        assert_same_bits(of(~spoilt, result), of(~spoilt, clean))
    assert not result.distance[~spoilt].isnan().any()


@devices
@implementations
@both_walks
@pytest.mark.parametrize(("program", "numbers"), NOT_FINITE.values(), ids=NOT_FINITE.keys())
def test_one_logit_that_is_not_finite(
    device: str, op: str, implementation: str, program: list[int], numbers: list[float]
) -> None:
    x = torch.full((6, 1, 3, 4), 0.5)
    arguments = all_walks(op, x, torch.tensor([numbers]), program)
    assert_failed(run(op, on(device, arguments), implementation))


def spoilt_weights(op: str, name: str, values: list[float]) -> Arguments:
    """Walks through models of which each has one of the values, at the beginning, at the end and in between."""
    arguments = task(op, name, num_images=1, num_models=1)
    (numbers,), num_places = arguments["parameters"], 12
    places = torch.linspace(0, len(numbers) - 1, num_places).long().repeat(len(values))
    spoilt = numbers.repeat(len(places), 1)
    spoilt[range(len(places)), places] = torch.tensor(values).repeat_interleave(num_places)
    return all_walks(op, arguments["x"], spoilt, arguments["program"]) | {"max_steps": 3}


@devices
@both_walks
@architectures
def test_weight_that_is_nan(device: str, op: str, name: str) -> None:
    arguments = on(device, spoilt_weights(op, name, [math.nan]))
    result, expected = run(op, arguments), run(op, arguments, "reference")
    assert result.distance.isnan().any()
    assert torch.equal(result.distance.isnan(), expected.distance.isnan())
    assert_same_bits(result[1:], expected[1:])


@devices
@both_walks
@pytest.mark.parametrize(
    ("name", "padded"),
    [("mlp 17-100", False), ("mlp width 1", False), ("conv 1x1", False), ("conv 3x3", True), ("global avg-pool", True)],
)
def test_weight_that_is_infinite(device: str, op: str, name: str, padded: bool) -> None:
    """The op may fail where the reference does not only at the border of a convolution, which is zeros."""
    arguments = on(device, spoilt_weights(op, name, [math.inf, -math.inf]))
    result, expected = run(op, arguments), run(op, arguments, "reference")
    failed = result.distance.isnan()
    assert failed.any()
    assert (failed | ~expected.distance.isnan()).all()
    assert padded or torch.equal(failed, expected.distance.isnan())
    rows = ~failed | (not padded)
    assert_same_bits(of(rows, result)[1:], of(rows, expected)[1:])


@devices
@implementations
def test_gradient_that_is_not_finite(device: str, implementation: str) -> None:
    """Of finite logits: these are answered, and so is the class that they tell."""
    numbers = [*[1e30] * 12, 1.0, -1e30, 1e30, 0.0, 0.0]
    arguments = on(
        device, all_walks("min_gd", torch.zeros(6, 1, 3, 4), torch.tensor([numbers]), [6, 0, 12, 1, 0, 1, 2])
    )
    result, away = run("min_gd", arguments, implementation), arguments["label"] == 0
    assert torch.equal(result.distance.isnan(), away)
    assert result.prediction.tolist() == [1] * 35
    assert result.steps.tolist() == [0] * 35
    assert run("min_gd", arguments, implementation, max_steps=0).distance.tolist() == [0.0] * 35


# ---- What is refused


def small_task(op: str) -> Arguments:
    """Five walks."""
    generator, five = torch.Generator().manual_seed(0), torch.arange(5, dtype=torch.int32)
    arguments = {
        "x": torch.rand((4, 1, 3, 4), generator=generator),
        "parameters": torch.randn((2, 12 * 9 + 9), generator=generator),
        "model": five % 2,
        "image": five % 4,
        "label": five,
        "norm": five % 3,
        "program": [6, 0, 12, 9],
    }
    if op == "blind_walk":
        arguments |= {"directions": torch.randn((3, 1, 3, 4), generator=generator), "direction": five % 3}
    return arguments


def assert_refused(op: str, arguments: Arguments, message: str, implementation: str = "op") -> None:
    with pytest.raises(ValueError) as refusal:
        run(op, arguments, implementation)
    assert str(refusal.value) == f"{op}: {message}"


CPU = "float32 on the CPU"
NUMBERS = "parameters must be [models, 117] float32, contiguous and on the device of x, got "
DIRECTIONS = "directions must be of the shape of the images and on the device of x, got "
BAD_TENSORS: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
    *(
        (name, spoil, f"{name} must be [N, C, H, W] float32 and contiguous, got {got}")
        for name, count in (("x", 4), ("directions", 3))
        for spoil, got in (
            (lambda t: t[0], f"[1, 3, 4] {CPU}"),
            (lambda t: t.double(), f"[{count}, 1, 3, 4] float64 on the CPU"),
            (lambda t: t.byte(), f"[{count}, 1, 3, 4] uint8 on the CPU"),
            (lambda t: t.transpose(2, 3), f"[{count}, 1, 4, 3] {CPU}, not contiguous"),
        )
    ),
    ("x", lambda t: t[..., :0], f"C, H and W must be >= 1 and C * H * W <= {2**24}, got [4, 1, 3, 0] {CPU}"),
    ("x", lambda t: torch.zeros(4, 1, 2, 2), "program: layer 1: takes 12 channels, but gets 4"),
    ("directions", lambda t: t[:, :, :2].clone(), f"{DIRECTIONS}[3, 1, 2, 4] {CPU} for [4, 1, 3, 4] {CPU}"),
    ("directions", lambda t: t.view(3, 1, 4, 3), f"{DIRECTIONS}[3, 1, 4, 3] {CPU} for [4, 1, 3, 4] {CPU}"),
    ("parameters", lambda t: t[0], f"{NUMBERS}[117] {CPU}"),
    ("parameters", lambda t: t[:, 1:].clone(), f"{NUMBERS}[2, 116] {CPU}"),
    ("parameters", lambda t: t.half(), f"{NUMBERS}[2, 117] float16 on the CPU"),
    ("parameters", lambda t: t.mT.contiguous().mT, f"{NUMBERS}[2, 117] {CPU}, not contiguous"),
    *(
        (name, spoil, f"{name} must be [5] int32, contiguous and on the device of x, got {got}")
        for name in OF_A_WALK
        for spoil, got in (
            (lambda t: t[:4], "[4] int32 on the CPU"),
            (lambda t: t[:, None], "[5, 1] int32 on the CPU"),
            (lambda t: t.long(), "[5] int64 on the CPU"),
            (lambda t: t[:1].expand(5), "[5] int32 on the CPU, not contiguous"),
        )
        if (name, got) not in {("model", "[4] int32 on the CPU"), ("model", "[5, 1] int32 on the CPU")}
    ),
    ("model", lambda t: t[:4], "image must be [4] int32, contiguous and on the device of x, got [5] int32 on the CPU"),
    (
        "model",
        lambda t: t[:, None],
        "model must be [5] int32, contiguous and on the device of x, got [5, 1] int32 on the CPU",
    ),
]
RANGES = [("model", 2), ("image", 4), ("label", 9), ("norm", 3), ("direction", 3)]
BAD_BOX = [
    ({"max_steps": -1}, "max_steps must be in [0, 2^24), got -1"),
    ({"max_steps": 2**24}, "max_steps must be in [0, 2^24), got 16777216"),
    ({"lower": 1.0}, "lower must be below upper, got 1 and 1"),
    ({"upper": -0.25}, "lower must be below upper, got 0 and -0.25"),
    ({"upper": math.nan}, "lower must be below upper, got 0 and nan"),
]
BAD_LENGTHS = [
    ({"linf_step": 0.0}, "steps must be finite and > 0, got 0, 0.05 and 0.05"),
    ({"l2_step": -1e-7}, "steps must be finite and > 0, got 0.01, -1e-07 and 0.05"),
    ({"l1_step": math.inf}, "steps must be finite and > 0, got 0.01, 0.05 and inf"),
    ({"l1_step": math.nan}, "steps must be finite and > 0, got 0.01, 0.05 and nan"),
    ({"l1_coordinates": 0}, "l1_coordinates must be in [1, 2^24], got 0"),
    ({"l1_coordinates": 2**24 + 1}, "l1_coordinates must be in [1, 2^24], got 16777217"),
    ({"l1_gap": -0.5}, "l1_gap must be finite and >= 0, got -0.5"),
    ({"l1_gap": math.inf}, "l1_gap must be finite and >= 0, got inf"),
    ({"l1_gap": math.nan}, "l1_gap must be finite and >= 0, got nan"),
]
NO_LOGITS = "must end in flat logits, one per class"
BAD_PROGRAMS = [
    ([6, 0, 12], "layer 1: linear is cut off"),
    ([7], "layer 0: unknown kind 7"),
    ([0, 12, 9], "layer 0: linear needs a flatten before it"),
    ([1, 1, 2, 0, 3, 1, 1, 0, 0], f"layer 0: {SIZES} 0"),
]


@needs_native
@pytest.mark.parametrize(
    ("op", "name", "spoil", "message"),
    [(op, *row) for op in OPTIONS for row in BAD_TENSORS if op == "blind_walk" or "direction" not in row[0]],
)
def test_bad_tensors_are_refused(op: str, name: str, spoil: Callable[[Tensor], Tensor], message: str) -> None:
    arguments = small_task(op)
    assert_refused(op, arguments | {name: spoil(arguments[name])}, message)


@implementations
@pytest.mark.parametrize(
    ("op", "change", "message"),
    [*((op, *row) for op in OPTIONS for row in BAD_BOX), *(("min_gd", *row) for row in BAD_LENGTHS)],
)
def test_bad_options_are_refused(op: str, implementation: str, change: dict[str, float], message: str) -> None:
    assert_refused(op, small_task(op) | change, message, implementation)


@implementations
@both_walks
def test_ids_out_of_range_are_refused(op: str, implementation: str) -> None:
    for name, limit in RANGES:
        for value in (-1, limit):
            arguments = small_task(op)
            if name in arguments:
                arguments[name][3] = value
                message = f"{name} must be in [0, {limit}), got {value} at index 3"
                assert_refused(op, arguments, message, implementation)


@implementations
@pytest.mark.parametrize(("key", "name"), [("x", "image"), ("parameters", "model"), ("directions", "direction")])
def test_walks_without_what_they_need_are_refused(implementation: str, key: str, name: str) -> None:
    arguments = small_task("blind_walk")
    for nothing in (arguments[key][:0], torch.empty((0, *arguments[key].shape[1:]))):
        message = f"{name} must be in [0, 0), got 0 at index 0"
        assert_refused("blind_walk", arguments | {key: nothing}, message, implementation)


@needs_native
@both_walks
@pytest.mark.parametrize(("program", "message"), BAD_PROGRAMS)
def test_bad_programs_are_refused(op: str, program: list[int], message: str) -> None:
    assert_refused(op, small_task(op) | {"program": program}, f"program: {message}")


@implementations
@both_walks
@pytest.mark.parametrize("program", [[], [3]])
def test_programs_without_logits_are_refused(op: str, implementation: str, program: list[int]) -> None:
    arguments = small_task(op)
    assert_refused(op, arguments | {"program": program}, f"program: {NO_LOGITS}", implementation)


@pytest.mark.parametrize(
    ("op", "name"),
    [*((op, name) for op in OPTIONS for name in ("x", "parameters")), ("blind_walk", "directions")],
)
def test_requires_grad_is_refused(op: str, name: str) -> None:
    arguments = small_task(op)
    arguments[name].requires_grad_()
    assert_refused(op, arguments, f"{name} must not require grad ({op} is not differentiable)")
