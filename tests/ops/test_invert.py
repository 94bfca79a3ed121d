"""Whole inversions: the reference against autograd and the Python loop, and the op against the reference, on every
device present. What a result may depend on is in test_ops_invert_bits.py, the rest in test_ops_invert_edges.py."""

import math
import random
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from pydrift import ops
from pydrift.core.noise import Phase, integers, uniform, words
from pydrift.inversion import GradientAscent
from pydrift.models.arch import lower
from pydrift.models.arch.fused import map_tensors
from pydrift.models.classifier import freeze
from pydrift.ops import AscentOptions, reference
from tests.models.test_lower import trained_like
from tests.native_harness import by_name
from tests.ops.test_ascent_update import DEVICES, needs_native
from tests.rounded_products import ROUNDED, round_products

Implementation = Callable[..., tuple[Tensor, Tensor, Tensor]]
invert = by_name(ops.invert, AscentOptions)
OPTIONS = {
    "seed": 2**63 + 5,
    "jitter": 2,
    "max_steps": 10,
    "precision": "float32",
    "optimizer": "adam",
    "learning_rate": 0.05,
    "beta1": 0.9,
    "beta2": 0.999,
    "epsilon": 1e-8,
    "tv_weight": 0.002,
    "l2_weight": 0.001,
    "lower": 0.0,
    "upper": 1.0,
    "confidence_threshold": 2.0,  # never
    "patience": 1000,
}
# One step of it writes the gradient into the image: what was there is lost in the rounding.
TO_GRADIENT = OPTIONS | {
    "optimizer": "momentum",
    "beta1": 0.0,
    "learning_rate": 1e12,
    "lower": -math.inf,
    "upper": math.inf,
    "tv_weight": 0.0,
    "l2_weight": 0.0,
    "max_steps": 1,
}


def mlp(*widths: int) -> Callable[[], nn.Module]:
    """From the number of pixels to the number of classes."""
    layers: list[nn.Module] = [nn.Flatten()]
    for fan_in, fan_out in pairwise(widths):
        layers += [nn.Linear(fan_in, fan_out), nn.ReLU()]
    return lambda: nn.Sequential(*layers[:-1])


def convnet(*layers: nn.Module, features: int, classes: int = 4) -> Callable[[], nn.Module]:
    return lambda: nn.Sequential(*layers, nn.Flatten(), nn.Linear(features, classes))


# One row per architecture: module and input shape.
ARCHITECTURES: dict[str, tuple[Callable[[], nn.Module], tuple[int, int, int]]] = {
    "mlp no hidden": (mlp(351, 10), (3, 9, 13)),
    "mlp width 1": (mlp(35, 1, 3), (1, 5, 7)),
    "mlp 17-100": (mlp(64, 17, 100, 10), (1, 8, 8)),
    "mlp 33-16-20": (mlp(784, 33, 16, 20, 10), (1, 28, 28)),
    "mlp wide": (mlp(784, 96, 10), (1, 28, 28)),  # weights enough for a cluster of blocks on a GPU
    "mlp 1x1 image": (mlp(2, 5, 2), (2, 1, 1)),
    "conv 3x3": (convnet(nn.Conv2d(1, 5, 3, padding=1), nn.ReLU(), features=585), (1, 9, 13)),
    "conv 3x3 no padding": (convnet(nn.Conv2d(3, 17, 3), nn.ReLU(), features=612), (3, 8, 8)),
    "conv 3x3 no relu": (convnet(nn.Conv2d(1, 5, 3, padding=1), features=320), (1, 8, 8)),
    "conv 3x3 stride 2": (convnet(nn.Conv2d(2, 6, 3, 2, 1), nn.ReLU(), features=210), (2, 9, 13)),
    "conv 5x5": (convnet(nn.Conv2d(3, 4, 5, padding=2), nn.ReLU(), features=468), (3, 9, 13)),
    "conv 5x5 stride 2": (convnet(nn.Conv2d(3, 7, 5, 2, 2), nn.ReLU(), features=2142), (3, 33, 35)),
    "conv 5x3 stride 2x1": (convnet(nn.Conv2d(1, 3, (5, 3), (2, 1), (1, 0)), nn.ReLU(), features=90), (1, 8, 12)),
    "conv 1x1": (convnet(nn.Conv2d(3, 16, 1), nn.ReLU(), nn.Conv2d(16, 1, 1), nn.ReLU(), features=64), (3, 8, 8)),
    "conv 3x3 of many channels": (
        convnet(
            *(nn.Conv2d(1, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 13, 3, padding=2), nn.ReLU()),
            *(nn.Conv2d(13, 9, 3), nn.Conv2d(9, 8, 3, padding=(0, 1)), nn.ReLU()),
            features=728,
        ),
        (1, 9, 13),
    ),
    "conv 3x3 of many channels, pooled": (
        convnet(
            *(nn.Conv2d(1, 12, 3, padding=1), nn.ReLU(), nn.Conv2d(12, 8, 3, padding=1), nn.MaxPool2d(2)),
            *(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            features=96,
        ),
        (1, 9, 13),
    ),
    "max-pool 2x2": (convnet(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), features=96), (1, 9, 13)),
    "max-pool 3x3": (
        convnet(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.MaxPool2d(3, 2, 1), features=175),
        (3, 9, 13),
    ),
    "relu after max-pool": (
        convnet(nn.Conv2d(1, 8, 3, padding=1), nn.MaxPool2d(3, 2, 1), nn.ReLU(), features=128),
        (1, 8, 8),
    ),
    "max-pool of the image": (convnet(nn.MaxPool2d((1, 2)), features=48, classes=3), (1, 8, 12)),
    "avg-pool": (convnet(nn.Conv2d(1, 4, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2), features=96), (1, 9, 13)),
    "avg-pool overlapping": (
        convnet(nn.AvgPool2d(3, 2), nn.Conv2d(2, 3, 3, 1, 1), nn.ReLU(), features=72),
        (2, 9, 13),
    ),
    "global avg-pool": (
        convnet(nn.Conv2d(3, 20, 3, 2, 1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), features=20, classes=10),
        (3, 9, 13),
    ),
    "normalised input": (
        convnet(nn.BatchNorm2d(3), nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), features=384),
        (3, 8, 8),
    ),
    "batch norm": (
        convnet(
            *(nn.Conv2d(1, 6, 3, padding=1, bias=False), nn.BatchNorm2d(6), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 9, 3, padding=1), nn.BatchNorm2d(9), nn.ReLU()),
            features=144,
        ),
        (1, 8, 8),
    ),
    "affine after relu": (
        convnet(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(6), nn.Conv2d(6, 5, 3, padding=1), nn.ReLU()),
            *(nn.BatchNorm2d(5), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(80, 9), nn.ReLU(), nn.BatchNorm1d(9)),
            features=9,
        ),
        (1, 8, 8),
    ),
    "two pools": (
        convnet(
            *(nn.Conv2d(1, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Conv2d(6, 7, 5), nn.ReLU(), nn.MaxPool2d(2)),
            *(nn.Flatten(), nn.Linear(175, 12), nn.ReLU()),
            features=12,
            classes=10,
        ),
        (1, 28, 28),
    ),
}
architectures = pytest.mark.parametrize("name", ARCHITECTURES)
devices = pytest.mark.parametrize("device", DEVICES)
implementations = pytest.mark.parametrize("implementation", [invert, reference.invert], ids=["op", "reference"])


def problem(
    name: str, count: int = 5, num_models: int = 2, device: str = "cpu", seed: int = 0
) -> tuple[dict[str, Tensor], list[int]]:
    """The tensors of one call in the order of the arguments, restarts of all models and labels mixed; the program."""
    make, shape = ARCHITECTURES[name]
    models = [lower(trained_like(make(), seed + m).eval(), shape) for m in range(num_models)]
    generator = torch.Generator().manual_seed(seed)
    tensors = {
        "x": torch.rand((count, *shape), generator=generator),
        "parameters": torch.stack([fused.parameters() for fused in models]),
        "model": torch.randint(0, num_models, (count,), generator=generator, dtype=torch.int32),
        "label": torch.randint(0, models[0].num_classes, (count,), generator=generator, dtype=torch.int32),
        "restart": torch.randint(0, 65_536, (count,), generator=generator, dtype=torch.int32),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}, models[0].program()


def random_problem(seed: int, device: str = "cpu") -> tuple[dict[str, Tensor], list[int]]:
    """As `problem`, with an odd shape and a chain of layers that nobody would think of."""
    rng, generator = random.Random(seed), torch.Generator().manual_seed(seed)
    channels, height, width = shape = rng.choice([1, 2, 3, 5]), rng.randint(1, 12), rng.randint(1, 12)
    flat, num_models, count = False, rng.randint(1, 3), rng.choice([1, 5, 16, 17, 40, 70, 130])
    program: list[int] = []
    numbers: list[Tensor] = []

    def add_parameters(size: int, scale: float) -> None:
        numbers.append(scale * torch.randn(num_models, size, generator=generator))

    for kind in [*rng.choices(range(7), [2, 6, 2, 4, 4, 2, 1], k=rng.randint(1, 7)), 6, 0]:
        kernel, code = (rng.randint(1, 5), rng.randint(1, 5)), []
        plain = kind == 1 and rng.random() < 0.5  # of the convolutions half are as they mostly are
        kernel = (3, 3) if plain else kernel
        if kind in (1, 4, 5):
            padding = (0, 0)
            if kind == 1:
                padding = rng.choice([(0, 0), (1, 1), (2, 2), (4, 3)])
            elif kind == 4 and rng.random() < 0.5:
                padding = (kernel[0] // 2, kernel[1] // 2)
            stride = (1, 1) if plain else rng.choice([(1, 1), (2, 2), (1, 2), (3, 2), kernel])
            spare = (height + 2 * padding[0] - kernel[0], width + 2 * padding[1] - kernel[1])
            if flat or min(spare) < 0:
                continue
            height, width = spare[0] // stride[0] + 1, spare[1] // stride[1] + 1
            code = [*kernel, *stride, *(padding if kind != 5 else ())]
        if kind in (0, 1):
            if flat != (kind == 0):
                continue
            fan_in, out = channels * (1 if flat else math.prod(kernel)), rng.choice([1, 2, 3, 7, 8, 12, 13, 16, 17])
            add_parameters(fan_in * out, fan_in**-0.5)
            add_parameters(out, 0.5)
            code, channels = [channels, out, *code], out
        elif kind == 2:
            add_parameters(channels, 1.0)
            add_parameters(channels, 0.5)
            code = [channels]
        elif kind == 6:
            channels, height, width, flat = channels * height * width, 1, 1, True
        program += [kind, *code]
    tensors = {
        "x": torch.rand((count, *shape), generator=generator),
        "parameters": torch.cat(numbers, dim=1),
        "model": torch.randint(0, num_models, (count,), generator=generator, dtype=torch.int32),
        "label": torch.randint(0, channels, (count,), generator=generator, dtype=torch.int32),
        "restart": torch.randint(0, 65_536, (count,), generator=generator, dtype=torch.int32),
    }
    return {name: tensor.to(device) for name, tensor in tensors.items()}, program


def run(tensors: dict[str, Tensor], function: Implementation = invert, **options: object) -> dict[str, Tensor]:
    """What `function` leaves and returns, with the tensors themselves unchanged."""
    x = tensors["x"].clone()
    confidence, loss, steps = function(*(tensors | {"x": x}).values(), **(OPTIONS | options))
    return {"x": x, "confidence": confidence, "loss": loss, "steps": steps}


def exact(tensors: dict[str, Tensor], **options: object) -> dict[str, Tensor]:
    """The reference in float64 on the CPU."""
    tensors = {name: t.double().cpu() if t.is_floating_point() else t.cpu() for name, t in tensors.items()}
    return run(tensors, reference.invert, **options)


def assert_images_agree(result: Tensor, expected: Tensor, bound: float) -> None:
    """Every image on its own, by the norm of the difference relative to the image's."""
    difference = (result.cpu().double() - expected).flatten(1).norm(dim=1)
    assert (difference <= bound * expected.flatten(1).norm(dim=1)).all(), difference / expected.flatten(1).norm(dim=1)


# ---- The reference: against the lowered modules, autograd of the documented objective, and the Python loop


@architectures
def test_reference_runs_the_lowered_network(name: str) -> None:
    make, shape = ARCHITECTURES[name]
    fused = lower(trained_like(make()).eval(), shape)
    x = torch.rand(3, *shape, generator=torch.Generator().manual_seed(1))
    assert torch.equal(reference.logits(x, fused.program(), fused.parameters()), fused(x))


@architectures
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_reference_against_autograd(name: str, optimizer: str) -> None:
    """Another loop: torch's optimizers on the objective with its priors, each image rolled by torch.roll."""
    make, shape = ARCHITECTURES[name]
    layers = [map_tensors(layer, Tensor.double) for layer in lower(trained_like(make()).eval(), shape).layers]
    tensors, program = problem(name, num_models=1)
    options = OPTIONS | {"optimizer": optimizer, "max_steps": 6, "tv_weight": 0.05, "l2_weight": 0.02, "upper": 0.9}
    x = tensors["x"].double().requires_grad_()
    if optimizer == "adam":
        ascent: torch.optim.Optimizer = torch.optim.Adam([x], lr=0.05, maximize=True)
    else:
        ascent = torch.optim.SGD([x], lr=0.05, momentum=0.9, maximize=True)

    def log_probability(images: Tensor) -> Tensor:
        for layer in layers:
            images = layer(images)
        return images.log_softmax(1)[torch.arange(len(images)), tensors["label"].long()]

    for step in range(6):
        bits = words(2**63 + 5, Phase.JITTER, 2, label=tensors["label"], restart=tensors["restart"], step=step)
        shifts = integers(bits, -2, 2).tolist()
        rolled = torch.stack([image.roll(shift, (1, 2)) for image, shift in zip(x, shifts, strict=True)])
        roughness = x.diff(dim=2).square().sum() + x.diff(dim=3).square().sum()
        ascent.zero_grad()
        (log_probability(rolled).sum() - 0.05 * roughness - 0.02 * x.square().sum()).backward()
        ascent.step()
        with torch.no_grad():
            x.clamp_(0.0, 0.9)
    expected = log_probability(x).detach()
    result = exact(tensors, program=program, **options)
    torch.testing.assert_close(result["x"], x.detach(), rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result["loss"], -expected, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(result["confidence"], expected.exp(), rtol=1e-9, atol=1e-9)
    assert result["steps"].tolist() == [6] * 5


class Opaque(nn.Sequential):
    """The same function, but nothing that can be lowered."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(x) + 0 * x.flatten(1).sum(1, keepdim=True)


def test_reference_is_the_python_loop() -> None:
    """With its stop rule, over restarts that stop at different steps."""
    make, shape = ARCHITECTURES["two pools"]
    module = trained_like(make()).eval()
    classifier = freeze(Opaque(*module), shape, torch.device("cpu"))
    attack = GradientAscent(steps=30, jitter=1, patience=4, confidence_threshold=0.95)
    gray = attack.invert(classifier, restarts=3, seed=9)

    fused = lower(module, shape)
    label, restart = torch.arange(10, dtype=torch.int32).repeat_interleave(3), torch.arange(3, dtype=torch.int32)
    restart = restart.repeat(10)
    noise = uniform(words(9, Phase.START, 784, label=label.numpy(), restart=restart.numpy()))
    x = torch.from_numpy(0.5 + attack.start_contrast * (noise - 0.5)).view(-1, *shape)
    options = {name: value for name, value in attack.settings().items() if name in OPTIONS}
    arguments = (x, fused.parameters()[None], torch.zeros_like(label), label, restart)
    confidence, _, steps = reference.invert(
        *arguments, **(OPTIONS | options | {"seed": 9, "max_steps": 30}), program=fused.program()
    )
    assert len(np.unique(gray.steps)) > 1
    assert steps.tolist() == gray.steps.ravel().tolist()
    np.testing.assert_allclose(x, gray.images.reshape(x.shape), atol=1e-4)
    np.testing.assert_allclose(confidence, gray.confidence.ravel(), atol=1e-4)


def test_reference_in_blocks_and_in_any_grad_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    tensors, program = problem("max-pool 3x3", count=9)
    expected = exact(tensors, program=program)
    monkeypatch.setattr(reference.ascent, "_BLOCK", 2)
    for mode in (torch.no_grad(), torch.inference_mode()):
        with mode:
            result = exact(tensors, program=program)
        for key, value in expected.items():
            torch.testing.assert_close(result[key], value, rtol=1e-9, atol=1e-9)
            assert not result[key].requires_grad


# ---- The op against the reference


@needs_native
@pytest.mark.parametrize("name", ["mlp 17-100", "batch norm"])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_opcheck(name: str, optimizer: str) -> None:
    tensors, program = problem(name)
    options = OPTIONS | {"optimizer": optimizer, "program": program, "max_steps": 2, "seed": 5}
    torch.library.opcheck(torch.ops.pydrift.invert.default, tuple(tensors.values()), options)


@devices
@architectures
def test_gradient_against_float64(device: str, name: str) -> None:
    tensors, program = problem(name, count=7, device=device)
    options = TO_GRADIENT | {"program": program}
    result, expected = run(tensors, **options), exact(tensors, **options)
    assert (result["steps"] == 1).all()
    assert_images_agree(result["x"], expected["x"], 1e-5)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@architectures
@pytest.mark.parametrize("precision", ["3xtf32", "tf32", "bfloat16"])
def test_gradient_of_tensor_cores_against_float64(monkeypatch: pytest.MonkeyPatch, name: str, precision: str) -> None:
    tensors, program = problem(name, count=7, device="cuda")
    options = TO_GRADIENT | {"program": program}
    result = run(tensors, **(options | {"precision": precision}))
    if precision in ROUNDED:
        round_products(monkeypatch, ROUNDED[precision])
    assert_images_agree(result["x"], exact(tensors, **options)["x"], 1e-5)


@devices
@architectures
@pytest.mark.parametrize(("steps", "bound"), [(1, 1e-5), (10, 1e-4)])
@pytest.mark.parametrize("optimizer", ["adam", "momentum"])
def test_steps_against_float64(device: str, name: str, optimizer: str, steps: int, bound: float) -> None:
    tensors, program = problem(name, count=7, device=device)
    options = {"optimizer": optimizer, "max_steps": steps, "program": program}
    result, expected = run(tensors, **options), exact(tensors, **options)
    assert result["x"].dtype == result["confidence"].dtype == result["loss"].dtype == torch.float32
    assert result["steps"].dtype == torch.int32
    assert result["steps"].tolist() == expected["steps"].tolist() == [steps] * 7
    assert_images_agree(result["x"], expected["x"], bound)
    for key in ("confidence", "loss"):
        torch.testing.assert_close(result[key].cpu().double(), expected[key], rtol=10 * bound, atol=bound)


@devices
def test_random_programs(device: str) -> None:
    """By momentum, whose steps, unlike Adam's, shrink with the gradient: where a sum almost cancels, float32 knows
    neither the relative size nor the sign of what is left."""
    for seed in range(120):
        tensors, program = random_problem(seed, device)
        options = {"optimizer": "momentum", "max_steps": 3, "program": program}
        result, expected = run(tensors, **options), exact(tensors, **options)
        assert_images_agree(result["x"], expected["x"], 1e-5)
        torch.testing.assert_close(result["loss"].cpu().double(), expected["loss"], rtol=1e-4, atol=1e-5)


@devices
@pytest.mark.parametrize("name", ["mlp 17-100", "two pools"])
def test_outcomes_of_whole_runs(device: str, name: str) -> None:
    """Mean confidence and steps of each class differ from the float64 reference's by less than seeds differ."""
    tensors, program = problem(name, count=60, num_models=1, device=device)
    tensors["label"] = torch.arange(60, dtype=torch.int32, device=device) % 10
    options = {"max_steps": 60, "confidence_threshold": 0.9, "patience": 8, "program": program}

    def per_class(outcome: dict[str, Tensor]) -> Tensor:
        """[2, classes]"""
        return torch.stack([outcome[key].cpu().double().view(6, 10).mean(0) for key in ("confidence", "steps")])

    seeds = torch.stack([per_class(exact(tensors, seed=seed, **options)) for seed in range(5)])
    difference = (per_class(run(tensors, seed=0, **options)) - seeds[0]).abs()
    assert (difference <= seeds.std(0).mean(dim=1, keepdim=True)).all()
