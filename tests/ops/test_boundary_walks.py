"""Walks to the decision boundary: the reference against their definition, and the ops against the reference, on every
device present. What a walk may depend on is in test_ops_boundary_walks_bits.py, the rest in ..._edges.py."""

from collections.abc import Callable, Iterator
from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from pydrift.ops import L1, L2, LINF, BlindWalkOptions, BoundaryWalks, MinGdOptions, blind_walk, min_gd, reference
from tests.models.test_lower import trained_like
from tests.native_harness import by_name
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_invert import ARCHITECTURES, architectures, devices, problem

Arguments = dict[str, Any]  # of one call, by name
Implementation = Callable[..., tuple[Tensor, Tensor, Tensor]]
Array = NDArray[np.float64]
Walk = tuple[float, int, int]  # distance, steps, prediction
IMPLEMENTATIONS = {
    "op": {"min_gd": by_name(min_gd, MinGdOptions), "blind_walk": by_name(blind_walk, BlindWalkOptions)},
    "reference": {"min_gd": reference.min_gd, "blind_walk": reference.blind_walk},
}
BOX = {"max_steps": 40, "lower": 0.0, "upper": 1.0}
LENGTHS = {"linf_step": 0.01, "l2_step": 0.05, "l1_step": 0.05, "l1_coordinates": 7, "l1_gap": 0.001}
OPTIONS = {"min_gd": BOX | LENGTHS, "blind_walk": BOX}
OF_A_WALK = ("model", "image", "direction", "label", "norm")
implementations = pytest.mark.parametrize("implementation", IMPLEMENTATIONS)
both_walks = pytest.mark.parametrize("op", OPTIONS)


def run(op: str, arguments: Arguments, implementation: str = "op", **options: object) -> BoundaryWalks:
    return BoundaryWalks(*IMPLEMENTATIONS[implementation][op](**(OPTIONS[op] | arguments | options)))


def exact(op: str, arguments: Arguments, **options: object) -> BoundaryWalks:
    """The reference in float64 on the CPU."""
    tensors = {key: part.cpu() for key, part in arguments.items() if isinstance(part, Tensor)}
    wide = {key: tensor.double() for key, tensor in tensors.items() if tensor.is_floating_point()}
    return run(op, arguments | tensors | wide, "reference", **options)


def all_walks(op: str, x: Tensor, parameters: Tensor, program: list[int]) -> Arguments:
    """From every image, by every model, to (or from) every class and in every norm, mixed; but one, lest their number
    be a multiple of the lanes. Most blind walks begin in the class that they leave."""
    generator = torch.Generator().manual_seed(1)
    answers = torch.stack([reference.logits(x, program, numbers) for numbers in parameters])
    ids = torch.cartesian_prod(*(torch.arange(n) for n in (len(parameters), len(x), answers.shape[2], 3))).int()
    model, image, label, norm = ids[torch.randperm(len(ids), generator=generator)][1:].T.contiguous()
    arguments = {"x": x, "parameters": parameters, "model": model, "image": image, "label": label, "norm": norm}
    if op == "blind_walk":
        found = answers.argmax(2)[model.long(), image.long()].int()
        arguments["label"] = torch.where(torch.rand(len(found), generator=generator) < 0.9, found, label)
        arguments["directions"] = 0.02 * torch.randn((5, *x.shape[1:]), generator=generator)
        arguments["direction"] = torch.randint(0, 5, label.shape, generator=generator, dtype=torch.int32)
    return arguments | {"program": program}


def task(op: str, name: str, num_images: int = 2, num_models: int = 2, device: str = "cpu") -> Arguments:
    """All walks through networks of an architecture of ARCHITECTURES."""
    tensors, program = problem(name, count=num_images, num_models=num_models)
    return on(device, all_walks(op, tensors["x"], tensors["parameters"], program))


def on(device: str, arguments: Arguments) -> Arguments:
    return {key: part.to(device) if isinstance(part, Tensor) else part for key, part in arguments.items()}


def only(rows: Tensor | slice, arguments: Arguments) -> Arguments:
    """Some walks of a call."""
    return {key: part[rows] if key in OF_A_WALK else part for key, part in arguments.items()}


def of(rows: Tensor | slice, walks: BoundaryWalks) -> tuple[Tensor, ...]:
    return tuple(part[rows] for part in walks)


def assert_same_bits(result: tuple[Tensor, ...], expected: tuple[Tensor, ...]) -> None:
    for one, other in zip(result, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=0, equal_nan=True)


def assert_agree(op: str, arguments: Arguments, result: BoundaryWalks, expected: BoundaryWalks) -> None:
    """Exactly in the steps and the prediction and closely in the distance, where a walk arrives. One that wanders on
    may part from its like wherever two logits nearly tie or a gradient nearly vanishes: most do not."""
    assert [part.dtype for part in result] == [torch.float32, torch.int32, torch.int32]
    result, label = BoundaryWalks(*(part.cpu() for part in result)), arguments["label"].cpu()
    close = (result.distance.double() - expected.distance).abs() <= 1e-5 * (1 + expected.distance)
    agree = close & (result.prediction == expected.prediction) & (result.steps == expected.steps)
    arrived = expected.prediction == label
    assert (agree | ~arrived if op == "min_gd" else agree).all()
    assert agree.sum() >= 0.9 * len(agree)
    assert torch.equal(result.prediction == label, arrived)
    assert result.steps.max() <= arguments.get("max_steps", BOX["max_steps"])


# ---- What the walks mean: once more, for one walk through a linear network, in numpy


def climb(x: Array, weight: Array, bias: Array, label: int, norm: int, o: dict[str, Any]) -> Walk:
    now, steps = x, 0
    while True:
        prediction = int((weight @ now + bias).argmax())
        gradient = weight[label] - weight[prediction]
        size = np.abs(gradient)
        if norm == LINF:
            change = o["linf_step"] * np.sign(gradient)
        elif norm == L2:
            change = o["l2_step"] * gradient / (np.sqrt((size**2).sum()) or 1)
        else:
            room = np.where(gradient > 0, o["upper"] - now, now - o["lower"])
            ranked = sorted(size[(room >= o["l1_gap"]) & (size > 0)], reverse=True)
            least = ranked[: o["l1_coordinates"]][-1] if ranked else np.inf
            change = np.where((room >= o["l1_gap"]) & (size >= least), o["l1_step"] * np.sign(gradient), 0)
        ahead = np.minimum(np.maximum(now + change, o["lower"]), o["upper"])
        if prediction == label or steps == o["max_steps"] or (ahead == now).all():
            return length(now - x, norm), steps, prediction
        now, steps = ahead, steps + 1


def march(x: Array, direction: Array, weight: Array, bias: Array, label: int, norm: int, o: dict[str, Any]) -> Walk:
    for step in range(o["max_steps"] + 1):
        now = np.minimum(np.maximum(x + step * direction, o["lower"]), o["upper"])
        prediction = int((weight @ now + bias).argmax())
        if prediction != label:
            break
    return length(now - x, norm), step, prediction


def length(change: Array, norm: int) -> float:
    size = np.abs(change)
    return float({LINF: size.max(), L2: np.sqrt((size**2).sum()), L1: size.sum()}[norm])


def walk_by_walk(op: str, arguments: Arguments) -> Iterator[Walk]:
    part = {key: value.cpu().double().numpy() for key, value in arguments.items() if isinstance(value, Tensor)}
    options, pixels, num_classes = OPTIONS[op] | arguments, part["x"][0].size, arguments["program"][-1]
    for n in range(len(part["model"])):
        model, image, label, norm = (int(part[key][n]) for key in ("model", "image", "label", "norm"))
        weight = part["parameters"][model, : num_classes * pixels].reshape(num_classes, pixels)
        bias, x = part["parameters"][model, num_classes * pixels :], part["x"][image].ravel()
        if op == "min_gd":
            yield climb(x, weight, bias, label, norm, options)
        else:
            direction = part["directions"][int(part["direction"][n])].ravel()
            yield march(x, direction, weight, bias, label, norm, options)


def whole_numbers(shape: tuple[int, ...], least: int, most: int, unit: float) -> Tensor:
    return unit * torch.randint(least, most + 1, shape, generator=torch.Generator().manual_seed(most)).float()


@devices
@implementations
@both_walks
def test_definition_without_rounding(device: str, op: str, implementation: str) -> None:
    """All in binary fractions, so that logits and gradients tie, pixels lie at their bounds and just at the gap, and
    LINF and L1 walks are exact in any arithmetic."""
    x, parameters = whole_numbers((6, 2, 3, 4), 0, 32, 1 / 32), whole_numbers((2, 5 * 24 + 5), -4, 4, 1 / 4)
    parameters[1, -5], parameters[1, -1] = 100.0, -100.0  # every other class is out of reach
    arguments = all_walks(op, x, parameters, [6, 0, 24, 5]) | {"max_steps": 150}
    if op == "min_gd":
        lengths = {"linf_step": 1 / 64, "l2_step": 1 / 16, "l1_step": 3 / 64, "l1_coordinates": 5, "l1_gap": 1 / 32}
        arguments |= lengths
    else:
        arguments["directions"] = whole_numbers((5, 2, 3, 4), -6, 6, 1 / 256)
    expected = [torch.tensor(part) for part in zip(*walk_by_walk(op, arguments), strict=True)]
    distance, steps, prediction = (part.cpu() for part in run(op, on(device, arguments), implementation))
    assert steps.tolist() == expected[1].tolist()
    assert prediction.tolist() == expected[2].tolist()
    is_exact = (arguments["norm"] != L2) | (steps == 0)
    assert torch.equal(distance[is_exact].double(), expected[0][is_exact].double())
    torch.testing.assert_close(distance.double(), expected[0].double(), rtol=1e-5, atol=1e-6)
    crossed = (prediction == arguments["label"]) == (op == "min_gd")
    assert (crossed & (steps > 2)).any()
    assert (~crossed & (steps == 150)).any()
    assert (~crossed & (steps < 150)).any() == (op == "min_gd")  # nothing moves any more


@both_walks
def test_definition_in_float64(op: str) -> None:
    tensors, program = problem("mlp no hidden", count=4)
    arguments = all_walks(op, tensors["x"], tensors["parameters"], program)
    distance, steps, prediction = zip(*walk_by_walk(op, arguments), strict=True)
    result = exact(op, arguments)
    assert result.steps.tolist() == list(steps)
    assert result.prediction.tolist() == list(prediction)
    np.testing.assert_allclose(result.distance, distance, rtol=1e-12, atol=1e-12)


@devices
@implementations
@pytest.mark.parametrize("scale", [1e-30, 1.0, 1e30])
def test_distance_between_two_classes(device: str, implementation: str, scale: float) -> None:
    """With all room, a step of any norm gains as much as the one before, whatever the size of the gradient."""
    generator = torch.Generator().manual_seed(0)
    x, parameters = torch.rand((6, 1, 4, 5), generator=generator), torch.randn((1, 42), generator=generator)
    arguments = all_walks("min_gd", x, scale * parameters, [6, 0, 20, 2])
    arguments |= {"max_steps": 1000, "lower": -100.0, "upper": 100.0}
    gap = parameters[0, 20:40].double() - parameters[0, :20]
    margin = x.flatten(1).double() @ gap + parameters[0, 41].double() - parameters[0, 40]
    size = gap.abs().sort(descending=True).values
    gain = torch.stack([0.01 * size.sum(), 0.05 * size.norm(), 0.05 * size[:7].sum()])
    norm, lead = arguments["norm"].long(), margin[arguments["image"].long()]
    away = torch.where(arguments["label"] == 1, -lead, lead)
    steps = torch.where(away > 0, (away / gain[norm]).floor() + 1, 0)
    result = BoundaryWalks(*(part.cpu() for part in run("min_gd", on(device, arguments), implementation)))
    assert result.steps.tolist() == steps.int().tolist()
    assert torch.equal(result.prediction, arguments["label"])
    expected = steps * torch.tensor([0.01, 0.05, 7 * 0.05], dtype=torch.float64)[norm]
    torch.testing.assert_close(result.distance.double(), expected, rtol=1e-4, atol=1e-6)
    assert steps.max() > 5


FAR = (17, 18, 20, 24)  # different sets of them have different sums
L1_STEPS = {  # gradient, room before the bound in 64ths, coordinates -> which of them an l1 step moves
    "the largest": ((4, -3, 2, 1), FAR, 2, [0, 1]),
    "equals of the last": ((4, -3, 3, 1), FAR, 2, [0, 1, 2]),
    "equals of the first": ((2, -2, 2, 2), FAR, 1, [0, 1, 2, 3]),
    "not a gradient of zero": ((4, 0, 0, -1), FAR, 3, [0, 3]),
    "more than there are": ((4, -3, 2, 1), FAR, 9, [0, 1, 2, 3]),
    "just a gap before the bound": ((4, -3, 2, 1), (16, 16, 20, 24), 2, [0, 1]),
    "nearer than the gap": ((4, -3, 2, 1), (15, 15, 20, 24), 2, [2, 3]),
    "nearer than the gap, and more than there are": ((4, -3, 2, 1), (17, 15, 15, 15), 4, [0]),
    "at the bound behind": ((4, -3, 2, 1), (64, 64, 20, 24), 2, [0, 1]),
    "none can": ((4, -3, 2, -1), (0, 0, 15, 15), 2, []),
}


@devices
@implementations
@pytest.mark.parametrize(("gradient", "room", "coordinates", "moved"), L1_STEPS.values(), ids=L1_STEPS.keys())
def test_l1_step(
    device: str,
    implementation: str,
    gradient: tuple[int, ...],
    room: tuple[int, ...],
    coordinates: int,
    moved: list[int],
) -> None:
    """One step, long enough to end at the bounds: its length tells which coordinates it moved."""
    zero, slope, before = torch.zeros(1, dtype=torch.int32), torch.tensor(gradient), torch.tensor(room) / 64
    arguments = {
        "x": torch.where(slope > 0, 1 - before, before).view(1, 1, 2, 2),
        "parameters": torch.cat([torch.zeros(4), slope, torch.tensor([1e3, 0.0])])[None],
        "model": zero,
        "image": zero,
        "label": zero + 1,
        "norm": zero + L1,
        "program": [6, 0, 4, 2],
    }
    options = {"l1_step": 2.0, "l1_coordinates": coordinates, "l1_gap": 16 / 64, "max_steps": 1}
    result = run("min_gd", on(device, arguments), implementation, **options)
    assert result.steps.tolist() == [1 if moved else 0]
    assert result.distance.tolist() == [sum(room[i] for i in moved) / 64]
    assert result.prediction.tolist() == [0]


# ---- The reference itself


@both_walks
def test_reference_in_blocks_and_in_any_grad_mode(monkeypatch: pytest.MonkeyPatch, op: str) -> None:
    arguments = task(op, "max-pool 3x3")
    expected = exact(op, arguments)
    monkeypatch.setattr(reference.walks, "_BLOCK", 5)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            result = exact(op, arguments)
        for one, other in zip(result, expected, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-9, atol=1e-9)
            assert not one.requires_grad


@needs_native
@both_walks
@pytest.mark.parametrize("name", ["mlp 17-100", "max-pool 3x3", "batch norm"])
def test_any_module_walks_as_its_fused_network(op: str, name: str) -> None:
    arguments = task(op, name, num_models=1)
    module = deepcopy(trained_like(ARCHITECTURES[name][0]())).eval().double()  # its layers are those of ARCHITECTURES
    image, label, norm, x = (arguments[key] for key in ("image", "label", "norm", "x"))
    if op == "min_gd":
        walks = reference.min_gd_through(module, image, label, norm, x=x.double(), options=MinGdOptions(**OPTIONS[op]))
    else:
        direction, directions = arguments["direction"], arguments["directions"].double()
        walks = reference.blind_walk_through(
            *(module, image, direction, label, norm),
            x=x.double(),
            directions=directions,
            options=BlindWalkOptions(**OPTIONS[op]),
        )
    assert not any(part.requires_grad for part in walks)
    assert_agree(op, arguments, run(op, arguments), BoundaryWalks(*walks))


# ---- The ops against the reference


@needs_native
@both_walks
@pytest.mark.parametrize("name", ["mlp 17-100", "batch norm"])
def test_opcheck(op: str, name: str) -> None:
    arguments = task(op, name, num_images=1) | OPTIONS[op] | {"max_steps": 3}
    order = ("x", "directions", "parameters", "model", "image", "direction", "label", "norm")
    tensors = tuple(arguments.pop(key) for key in order if key in arguments)
    torch.library.opcheck(getattr(torch.ops.pydrift, op).default, tensors, arguments)


@devices
@architectures
@both_walks
def test_against_float64(device: str, op: str, name: str) -> None:
    arguments = task(op, name, device=device)
    assert len(arguments["model"]) % 8
    assert_agree(op, arguments, run(op, arguments), exact(op, arguments))


@devices
@both_walks
def test_one_class(device: str, op: str) -> None:
    x, parameters = torch.rand((3, 1, 2, 2)), torch.randn((2, 5))
    arguments = on(device, all_walks(op, x, parameters, [6, 0, 4, 1]))
    result, expected = run(op, arguments), exact(op, arguments)
    assert result.steps.tolist() == [0 if op == "min_gd" else 40] * 17
    assert result.prediction.tolist() == [0] * 17
    torch.testing.assert_close(result.distance.cpu().double(), expected.distance, rtol=1e-5, atol=1e-6)
