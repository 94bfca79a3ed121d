"""Training in one call: against float64 in plain torch, the bits of a model, what is refused, and the op's memory."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from pydrift.ops import HYPERPARAMETERS, native, reference, shadow_train, why_not_trainable
from tests.ops.test_ascent_update import needs_native
from tests.ops.test_invert import ARCHITECTURES, problem, random_problem

Implementation = Callable[..., Tensor]
implementations = pytest.mark.parametrize(
    "implementation",
    [
        pytest.param(shadow_train, id="native", marks=needs_native),
        pytest.param(reference.shadow_train, id="torch"),
    ],
)
OPTIMIZERS = ("adam", "sgd")
PLAIN = {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.0, "label_smoothing": 0.0}


def task(
    parameters: Tensor,
    shape: tuple[int, int, int],
    classes: int,
    *,
    optimizer: str,
    images: int = 60,
    steps: list[int],
    batch_size: list[int],
    augment: bool = True,
    seed: int = 0,
    **hyperparameters: float,
) -> dict[str, Any]:
    """The arguments of a call that begins a training, by name."""
    generator = torch.Generator().manual_seed(seed)
    count = sum(s * b for s, b in zip(steps, batch_size, strict=True))
    augmentation = torch.stack(
        [torch.randint(*span, (count,), generator=generator) for span in ((-2, 3), (-1, 3), (0, 2))], 1
    )
    models = len(parameters)
    return {
        "x": torch.randint(0, 256, (images, *shape), generator=generator, dtype=torch.uint8),
        "label": torch.randint(0, classes, (images,), generator=generator, dtype=torch.int32),
        "parameters": parameters.clone(),
        "first_moment": torch.zeros_like(parameters),
        "second_moment": torch.zeros_like(parameters) if optimizer == "adam" else torch.zeros(models, 0),
        "order": torch.randint(0, images, (count,), generator=generator, dtype=torch.int32),
        "augmentation": augmentation.to(torch.int8) if augment else torch.zeros(0, 3, dtype=torch.int8),
        "steps_done": torch.zeros(models, dtype=torch.int64),
        "num_steps": torch.tensor(steps, dtype=torch.int32),
        "batch_size": torch.tensor(batch_size, dtype=torch.int32),
        "learning_rate": torch.linspace(0.02, 0.005, sum(steps), dtype=torch.float64),
        "hyperparameters": torch.tensor(
            [[({**PLAIN, **hyperparameters})[name] for name in HYPERPARAMETERS]] * models, dtype=torch.float64
        ),
    }


def of(name: str, **options: Any) -> tuple[dict[str, Any], list[int]]:
    """A task for two models of an architecture of the inversion's tests, and its program."""
    tensors, program = problem(name)
    classes = reference.logits(tensors["x"][:1], program, tensors["parameters"][0]).shape[1]
    settings = {"optimizer": "sgd", "steps": [1, 1], "batch_size": [20, 20], **options}
    return task(tensors["parameters"], tuple(tensors["x"].shape[1:]), classes, **settings), program


def exact(arguments: dict[str, Any]) -> dict[str, Any]:
    """The same task in float64; the pixels too, so that nothing is rounded on the way."""
    return {name: t.double() if t.dtype == torch.float32 else t.clone() for name, t in arguments.items()}


def copied(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: tensor.clone() for name, tensor in arguments.items()}


def run(implementation: Implementation, arguments: dict[str, Any], program: list[int], optimizer: str) -> Tensor:
    return implementation(*arguments.values(), program=program, optimizer=optimizer)


def relative(value: Tensor, truth: Tensor) -> float:
    return float((value.double() - truth.double()).norm() / truth.double().norm().clamp(min=1e-12))


def assert_is_reference(arguments: dict[str, Any], program: list[int], optimizer: str, tolerance: float) -> None:
    """Loss, gradient (as the first moment shows it) and parameters are those of float64."""
    truth, before = exact(arguments), arguments["parameters"].clone()
    loss, true_loss = (
        run(shadow_train, arguments, program, optimizer),
        run(reference.shadow_train, truth, program, optimizer),
    )
    torch.testing.assert_close(loss.double(), true_loss.double(), rtol=tolerance, atol=tolerance)
    assert relative(arguments["first_moment"], truth["first_moment"]) < tolerance
    if optimizer == "sgd":  # of Adam, the first step takes only the gradient's sign: where that is zero it is chance
        assert relative(arguments["parameters"] - before, truth["parameters"] - before) < 10 * tolerance
        torch.testing.assert_close(arguments["parameters"].double(), truth["parameters"], rtol=1e-5, atol=1e-6)


# ---- The same as in plain torch


@needs_native
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_one_step_is_the_references(name: str, optimizer: str) -> None:
    arguments, program = of(name, optimizer=optimizer, weight_decay=0.1, label_smoothing=0.1)
    assert_is_reference(arguments, program, optimizer, 1e-5)


@needs_native
@pytest.mark.parametrize("batch_size", [1, 2, 15, 16, 17, 63, 64, 65, 130])
@pytest.mark.parametrize("name", ["mlp 33-16-20", "two pools"])
def test_batches_of_any_size(name: str, batch_size: int) -> None:
    arguments, program = of(name, batch_size=[batch_size, 3])
    assert_is_reference(arguments, program, "sgd", 1e-5)


@needs_native
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_ten_steps_of_models_with_other_hyper_parameters(optimizer: str) -> None:
    arguments, program = of("two pools", optimizer=optimizer, batch_size=[16, 7], steps=[10, 6])
    arguments["hyperparameters"][1] = torch.tensor([0.5, 0.9, 1e-3, 0.3, 0.2])
    if optimizer == "adam":
        arguments["learning_rate"] /= 10
    truth = exact(arguments)
    loss = run(shadow_train, arguments, program, optimizer)
    torch.testing.assert_close(
        loss.double(), run(reference.shadow_train, truth, program, optimizer).double(), rtol=1e-4, atol=1e-4
    )
    assert relative(arguments["parameters"], truth["parameters"]) < 1e-4


@needs_native
@pytest.mark.parametrize("seed", range(25))
def test_random_programs(seed: int) -> None:
    tensors, program = random_problem(seed)
    classes = int(tensors["label"].max()) + 1
    models, shape = len(tensors["parameters"]), tuple(tensors["x"].shape[1:])
    arguments = task(
        tensors["parameters"], shape, classes, optimizer="sgd", steps=[1] * models, batch_size=[18] * models, seed=seed
    )
    assert_is_reference(arguments, program, "sgd", 2e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@implementations
def test_the_optimizers_are_torchs(optimizer: str, implementation: Implementation) -> None:
    """Against torch.optim itself, step by step, on a network whose parameters torch knows as one tensor."""
    arguments, program = of("mlp 33-16-20", optimizer=optimizer, steps=[5, 5], weight_decay=0.05, augment=False)
    parameter = torch.nn.Parameter(arguments["parameters"][0].double())
    optim: torch.optim.Optimizer = (
        torch.optim.AdamW([parameter], weight_decay=0.05)
        if optimizer == "adam"
        else torch.optim.SGD([parameter], lr=1.0, momentum=0.9, nesterov=True, weight_decay=0.05)
    )
    for step in range(5):
        batch = arguments["order"][step * 20 : step * 20 + 20].long()
        logits = reference.logits(arguments["x"][batch] / 255.0, program, parameter.float()).double()
        loss = torch.nn.functional.cross_entropy(logits, arguments["label"][batch].long())
        optim.zero_grad()
        loss.backward()
        optim.param_groups[0]["lr"] = float(arguments["learning_rate"][step])
        optim.step()
    run(implementation, arguments, program, optimizer)
    torch.testing.assert_close(arguments["parameters"][0].double(), parameter.detach(), rtol=1e-4, atol=1e-4)


@implementations
def test_bytes_are_read_as_parts_of_255(implementation: Implementation) -> None:
    bytes_, program = of("two pools", steps=[3, 3])
    floats = {**copied(bytes_), "x": bytes_["x"] / 255.0}
    run(implementation, bytes_, program, "sgd")
    run(implementation, floats, program, "sgd")
    assert torch.equal(bytes_["parameters"], floats["parameters"])


def test_looks_move_and_then_mirror() -> None:
    x = torch.arange(1.0, 7.0).view(1, 1, 2, 3)
    augmentation = torch.tensor([[0, 0, 0], [1, 0, 0], [0, -1, 0], [0, 1, 1], [-9, 0, 0]], dtype=torch.int8)
    assert reference.augment_images(x.expand(5, -1, -1, -1), augmentation)[:, 0].tolist() == [
        [[1, 2, 3], [4, 5, 6]],
        [[0, 0, 0], [1, 2, 3]],
        [[2, 3, 0], [5, 6, 0]],
        [[2, 1, 0], [5, 4, 0]],
        [[0, 0, 0], [0, 0, 0]],
    ]


@implementations
def test_scales_and_shifts_do_not_learn(implementation: Implementation) -> None:
    arguments, _ = of("mlp 33-16-20")
    program = [2, 1, 6, 0, 64, 10]
    start = torch.randn(2, 2 + 650)
    arguments = task(start, (1, 8, 8), 10, optimizer="sgd", steps=[2, 2], batch_size=[9, 9], weight_decay=0.5)
    run(implementation, arguments, program, "sgd")
    assert torch.equal(arguments["parameters"][:, :2], start[:, :2])
    assert (arguments["parameters"][:, 2:] != start[:, 2:]).float().mean() > 0.99


# ---- Bits


@needs_native
@pytest.mark.parametrize("name", ["two pools", "mlp 33-16-20"])
def test_a_model_does_not_depend_on_its_companions_nor_on_threads(name: str) -> None:
    arguments, program = of(name, optimizer="adam", steps=[4, 3], batch_size=[30, 17])
    alone = copied(arguments)
    for key, begin in (("order", 120), ("augmentation", 120), ("learning_rate", 4)):
        alone[key] = alone[key][begin:].contiguous()
    for key in (
        "parameters",
        "first_moment",
        "second_moment",
        "steps_done",
        "num_steps",
        "batch_size",
        "hyperparameters",
    ):
        alone[key] = alone[key][1:].contiguous()
    loss_alone = run(shadow_train, alone, program, "adam")
    threads = torch.get_num_threads()
    for number in (1, 2, 5):
        together = copied(arguments)
        torch.set_num_threads(number)
        try:
            loss = run(shadow_train, together, program, "adam")
        finally:
            torch.set_num_threads(threads)
        assert torch.equal(together["parameters"][1], alone["parameters"][0])
        assert torch.equal(together["second_moment"][1], alone["second_moment"][0])
        assert loss[1] == loss_alone[0]


@needs_native
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_steps_may_be_taken_in_several_calls(optimizer: str) -> None:
    whole, program = of("two pools", optimizer=optimizer, steps=[5, 5])
    parts = copied(whole)
    run(shadow_train, whole, program, optimizer)
    first = [100, 100]  # entries of `order` of each model: 5 steps of 20
    for begin, end in ((0, 2), (2, 5)):
        picked = [slice(k * first[k] + begin * 20, k * first[k] + end * 20) for k in (0, 1)]
        call = {
            **parts,
            "order": torch.cat([parts["order"][p] for p in picked]),
            "augmentation": torch.cat([parts["augmentation"][p] for p in picked]),
            "learning_rate": torch.cat([parts["learning_rate"][k * 5 + begin : k * 5 + end] for k in (0, 1)]),
            "steps_done": torch.full((2,), begin),
            "num_steps": torch.full((2,), end - begin, dtype=torch.int32),
        }
        run(shadow_train, call, program, optimizer)
    assert torch.equal(parts["parameters"], whole["parameters"])
    assert torch.equal(parts["first_moment"], whole["first_moment"])


@needs_native
def test_every_instruction_set_trains_alike(monkeypatch: pytest.MonkeyPatch) -> None:
    arguments, program = of("two pools", steps=[3, 3], batch_size=[33, 9])
    results = []
    for simd in native.simd_variants():
        monkeypatch.setenv("PYDRIFT_SIMD", simd)
        trained = copied(arguments)
        run(shadow_train, trained, program, "sgd")
        results.append(trained["parameters"])
    for result in results[1:]:
        assert relative(result, results[0]) < 1e-6


# ---- Edges


@implementations
def test_nothing_to_do(implementation: Implementation) -> None:
    arguments, program = of("two pools", steps=[0, 0])
    before = copied(arguments)
    assert run(implementation, arguments, program, "sgd").isnan().all()
    assert torch.equal(arguments["parameters"], before["parameters"])
    none = {name: t[:0] if t.shape[0] == 2 else t for name, t in arguments.items()}
    assert run(implementation, none, program, "sgd").shape == (0,)


@implementations
def test_divergence_shows(implementation: Implementation) -> None:
    arguments, program = of("two pools", steps=[6, 1])
    arguments["learning_rate"][:6] = 1e20
    loss = run(implementation, arguments, program, "sgd")
    assert not loss[0].isfinite()
    assert loss[1].isfinite()
    assert arguments["parameters"][1].isfinite().all()


@needs_native
def test_opcheck() -> None:
    arguments, program = of("two pools")
    torch.library.opcheck(
        torch.ops.pydrift.shadow_train.default,
        tuple(arguments.values()),
        {"program": program, "optimizer": "sgd"},
    )


STEPS = "num_steps must be >= 0, steps_done in [0, 2^62) and batch_size >= 1, got"
REFUSED: list[tuple[str, Callable[[Tensor], Tensor], str]] = [
    ("x", lambda t: t[0], r"x must be [N, C, H, W] uint8 or float32 and contiguous, got [1, 28, 28] uint8"),
    ("x", lambda t: t.double(), "x must be [N, C, H, W] uint8 or float32 and contiguous, got [60, 1, 28, 28] float64"),
    ("x", lambda t: t.mT, "x must be [N, C, H, W] uint8 or float32 and contiguous, got [60, 1, 28, 28] uint8"),
    ("label", lambda t: t[1:], "label must be [60] int32, contiguous and on the device of x, got [59] int32"),
    ("label", lambda t: t.long(), "label must be [60] int32, contiguous and on the device of x, got [60] int64"),
    ("label", lambda t: t + 100, "label must be in [0, "),
    ("parameters", lambda t: t[:, 1:], "parameters must be [models, "),
    ("first_moment", lambda t: t[:1], "first_moment must be [2, "),
    ("second_moment", lambda t: torch.zeros(2, 3), "second_moment must be [2, 0] float32"),
    ("order", lambda t: t[1:].contiguous(), "augmentation must be [39, 3] int8"),
    ("order", lambda t: t - 1, "order must be in [0, 60), got -1"),
    ("augmentation", lambda t: t.int(), "augmentation must be [40, 3] int8"),
    ("steps_done", lambda t: t.int(), "steps_done must be [2] int64"),
    (
        "num_steps",
        lambda t: t * 2,
        "order must have as many entries as num_steps * batch_size over all models, 80, got 40",
    ),
    (
        "num_steps",
        lambda t: t - 2,
        STEPS + " -1, 0 and 20",
    ),
    (
        "steps_done",
        lambda t: t + 2**63 - 1,
        STEPS + f" 1, {2**63 - 1} and 20",
    ),
    (
        "batch_size",
        lambda t: t * 0,
        STEPS + " 1, 0 and 0",
    ),
    (
        "learning_rate",
        lambda t: t[1:].contiguous(),
        "learning_rate must have as many entries as num_steps over all models, 2, got 1",
    ),
    ("learning_rate", lambda t: t * math.nan, "learning_rate must be finite and >= 0, got nan at index 0"),
    ("hyperparameters", lambda t: t[:, :4].contiguous(), "hyperparameters must be [2, 5] float64"),
    ("hyperparameters", lambda t: t + 1, "beta1 or momentum must be in [0, 1), got 1.9 for model 0"),
]


@needs_native
@pytest.mark.parametrize(("name", "change", "message"), REFUSED)
def test_wrong_arguments_are_refused(name: str, change: Callable[[Tensor], Tensor], message: str) -> None:
    arguments, program = of("two pools")
    if name == "order" and "-1" in message:
        arguments["order"][0] = 0
    changed = {**copied(arguments), name: change(arguments[name])}
    before = copied(changed)
    with pytest.raises((ValueError, RuntimeError), match=re.escape(f"shadow_train: {message}")):
        run(shadow_train, changed, program, "sgd")
    assert torch.equal(changed["parameters"], before["parameters"])


def test_gradients_and_other_optimizers_are_refused() -> None:
    arguments, program = of("two pools")
    with pytest.raises(ValueError, match="shadow_train: optimizer must be 'adam' or 'sgd', got 'lamb'"):
        run(shadow_train, arguments, program, "lamb")
    arguments["parameters"].requires_grad_()
    with pytest.raises(
        ValueError, match=r"shadow_train: parameters must not require grad \(shadow_train is not differentiable\)"
    ):
        run(shadow_train, arguments, program, "sgd")


@needs_native
def test_what_cannot_be_trained_is_said() -> None:
    cpu = torch.device("cpu")
    assert why_not_trainable([6, 0, 4, 3], 15, (1, 2, 2), cpu) is None
    assert (
        why_not_trainable([3, 6], 0, (1, 2, 2), cpu)
        == "program: no linear or conv2d layer, so there is nothing to train"
    )
    assert why_not_trainable([6], 0, (1, 2, 2), torch.device("meta")) == "no native training on meta"
