"""The CUDA source of the training of many models, executed on the host, against the reference in plain torch."""

import ctypes
import math
from typing import Any

import pytest
import torch
from torch import Tensor

from pydrift.ops import native_status, reference, shadow_train, why_not_trainable
from tests.native_harness import PROGRAM_SOURCES, call, host_library, program_of
from tests.ops.test_invert import random_problem
from tests.ops.test_invert_kernel import (
    FLATTEN,
    NETWORKS,
    RELU,
    affine,
    avg_pool,
    conv,
    linear,
    max_pool,
    parameters_of,
)
from tests.ops.test_shadow_train import OPTIMIZERS, copied, exact, relative, run, task

pytestmark = pytest.mark.slow

MODEL_BATCH_BYTES = 1 << 31

needs_gpu = pytest.mark.skipif(
    not (torch.cuda.is_available() and native_status().cuda), reason="needs a GPU and the CUDA library"
)

TRAINABLE = [name for name in NETWORKS if name != "nothing"]


class Task(ctypes.Structure):
    """ShadowTrainTask of csrc/train/shadow_train_task.h."""

    _fields_ = (
        *((name, ctypes.c_void_p) for name in ("program", "bytes", "floats", "label", "parameters")),
        *((name, ctypes.c_void_p) for name in ("first_moment", "second_moment", "order", "augmentation", "steps_done")),
        *((name, ctypes.c_void_p) for name in ("num_steps", "batch_size", "learning_rate", "hyperparameters", "loss")),
        *((name, ctypes.c_int64) for name in ("num_images", "num_models", "num_order_entries", "num_learning_rates")),
        ("optimizer", ctypes.c_int32),
    )


@pytest.fixture(scope="module")
def library(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    return host_library(tmp_path_factory, "shadow_train", *PROGRAM_SOURCES)


def run_kernel(
    library: ctypes.CDLL,
    arguments: dict[str, Tensor],
    program: list[int],
    optimizer: str,
    *,
    model_batch_bytes: int = MODEL_BATCH_BYTES,
    reverse: bool = False,
) -> Tensor:
    """What `shadow_train` does with these arguments on the GPU; returns the losses."""
    pointers = {name: tensor.data_ptr() if tensor.numel() else None for name, tensor in arguments.items()}
    x = arguments["x"]
    pointers["bytes" if x.dtype == torch.uint8 else "floats"] = pointers.pop("x")
    loss = torch.full((len(arguments["parameters"]),), -1.0)
    complete = Task(
        **pointers,
        loss=loss.data_ptr(),
        num_images=len(x),
        num_models=len(loss),
        num_order_entries=len(arguments["order"]),
        num_learning_rates=len(arguments["learning_rate"]),
        optimizer=OPTIMIZERS.index(optimizer),
    )
    numbers = program_of(program, x.shape[1:]), ctypes.c_int64(model_batch_bytes), reverse
    call(library.run_shadow_train_kernel, complete, *numbers)
    return loss


def of(name: str, num_models: int = 2, **options: Any) -> tuple[dict[str, Tensor], list[int]]:
    """A task for a network of the inversion's kernel tests, and its program."""
    shape, program = NETWORKS[name]
    parameters = parameters_of(program, shape, num_models)
    classes = reference.logits(torch.zeros(1, *shape), program, parameters[0]).shape[1]
    settings = {"optimizer": "sgd", "steps": [1] * num_models, "batch_size": [9, 37][:num_models], **options}
    return task(parameters, shape, classes, **settings), program


def assert_is_reference(
    library: ctypes.CDLL, arguments: dict[str, Tensor], program: list[int], optimizer: str, tolerance: float, **cut: Any
) -> None:
    """Loss, gradient (as the first moment shows it) and parameters are those of float64, for every model."""
    truth, before = exact(arguments), arguments["parameters"].clone()
    true_loss = run(reference.shadow_train, truth, program, optimizer)
    loss = run_kernel(library, arguments, program, optimizer, **cut)
    torch.testing.assert_close(loss.double(), true_loss.double(), rtol=tolerance, atol=tolerance)
    for k in range(len(before)):
        assert relative(arguments["first_moment"][k], truth["first_moment"][k]) < tolerance
        if optimizer == "sgd":
            moved, truly = arguments["parameters"][k] - before[k], truth["parameters"][k] - before[k]
            assert relative(moved, truly) < 10 * tolerance


# ---- Agreement with the reference


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", TRAINABLE)
def test_one_step(library: ctypes.CDLL, name: str, optimizer: str) -> None:
    """Batches of 9 and 37 samples: one group of lanes and two, none of them full."""
    arguments, program = of(name, optimizer=optimizer, weight_decay=0.1, label_smoothing=0.1)
    assert_is_reference(library, arguments, program, optimizer, 1e-5)


@pytest.mark.parametrize("seed", range(20))
def test_random_programs(library: ctypes.CDLL, seed: int) -> None:
    tensors, program = random_problem(seed)
    classes, models = int(tensors["label"].max()) + 1, len(tensors["parameters"])
    sizes = {"steps": [1] * models, "batch_size": [18, 40, 7][:models]}
    shape = tuple(tensors["x"].shape[1:])
    arguments = task(tensors["parameters"], shape, classes, optimizer="sgd", augment=seed % 2 == 0, seed=seed, **sizes)
    assert_is_reference(library, arguments, program, "sgd", 1e-5)


@pytest.mark.parametrize("batch_size", [1, 31, 32, 33, 64, 128, 129, 300])
@pytest.mark.parametrize("name", ["linear", "pooled logits"])
def test_batches_of_any_size(library: ctypes.CDLL, name: str, batch_size: int) -> None:
    """Beyond 128 samples a batch is learned slice by slice, while the other model has nothing to do."""
    arguments, program = of(name, batch_size=[batch_size, 3])
    assert_is_reference(library, arguments, program, "sgd", 1e-5)


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("name", ["small convnet", "one class"])
def test_steps_of_models_with_other_hyper_parameters(library: ctypes.CDLL, name: str, optimizer: str) -> None:
    options: dict[str, Any] = {"optimizer": optimizer, "batch_size": [16, 7, 40], "steps": [5, 3, 0]}
    arguments, program = of(name, num_models=3, **options)
    arguments["hyperparameters"][1] = torch.tensor([0.5, 0.9, 1e-3, 0.3, 0.2])
    arguments["steps_done"][:] = torch.tensor([0, 7, 2])
    if optimizer == "adam":
        arguments["learning_rate"] /= 10
    truth, before = exact(arguments), copied(arguments)
    true_loss = run(reference.shadow_train, truth, program, optimizer)
    loss = run_kernel(library, arguments, program, optimizer)
    torch.testing.assert_close(loss.double(), true_loss.double(), rtol=1e-4, atol=1e-4, equal_nan=True)
    assert loss[2].isnan()
    assert relative(arguments["parameters"], truth["parameters"]) < 1e-4
    assert torch.equal(arguments["parameters"][2], before["parameters"][2])
    assert torch.equal(arguments["first_moment"][2], before["first_moment"][2])


@pytest.mark.parametrize("augment", [False, True])
def test_images_are_bytes_or_numbers(library: ctypes.CDLL, augment: bool) -> None:
    bytes_, program = of("convnet of odd sides", num_models=1, batch_size=[9], augment=augment)
    floats = {**copied(bytes_), "x": bytes_["x"] / 255.0}
    run_kernel(library, bytes_, program, "sgd")
    assert_is_reference(library, floats, program, "sgd", 1e-5)
    assert torch.equal(bytes_["parameters"], floats["parameters"])


def test_weights_in_many_tiles(library: ctypes.CDLL) -> None:
    """More outputs than a block has, more terms than shared memory has, at edges that no tile meets."""
    shape, program = (65, 2, 2), [*conv(65, 33), *RELU, *max_pool(2, 2), *FLATTEN, *linear(33, 67), *linear(67, 2)]
    parameters = parameters_of(program, shape, 1)
    arguments = task(parameters, shape, 2, optimizer="sgd", steps=[1], batch_size=[5])
    assert_is_reference(library, arguments, program, "sgd", 1e-5)


def test_scales_and_shifts_do_not_learn(library: ctypes.CDLL) -> None:
    program = [*affine(2), *conv(2, 3), *RELU, *affine(3), *avg_pool(2, 2), *FLATTEN, *affine(12), *linear(12, 3)]
    start = parameters_of(program, (2, 5, 4), 2)
    arguments = task(start, (2, 5, 4), 3, optimizer="adam", steps=[2, 2], batch_size=[9, 9], weight_decay=0.5)
    run_kernel(library, arguments, program, "adam")
    fixed = reference.affine_mask(program, start.shape[1])
    assert torch.equal(arguments["parameters"][:, fixed], start[:, fixed])
    assert (arguments["parameters"][:, ~fixed] != start[:, ~fixed]).all()


# ---- Bits


@pytest.mark.parametrize("name", ["small convnet", "pooled logits"])
def test_same_bits_however_the_work_is_cut(library: ctypes.CDLL, name: str) -> None:
    """Waves of one model, the order of the threads, companions, and steps in several calls."""
    options: dict[str, Any] = {"num_models": 3, "optimizer": "adam", "steps": [2, 3, 2], "batch_size": [20, 7, 33]}
    start, program = of(name, **options)
    expected = copied(start)
    loss = run_kernel(library, expected, program, "adam")
    for cut in ({"model_batch_bytes": 0}, {"reverse": True}):
        arguments = copied(start)
        assert torch.equal(run_kernel(library, arguments, program, "adam", **cut), loss)
        for key in ("parameters", "first_moment", "second_moment"):
            assert torch.equal(arguments[key], expected[key])
    alone = {key: tensor[1:2].clone() if len(tensor) == 3 else tensor.clone() for key, tensor in start.items()}
    order, augmentation, rate = start["order"][40:61], start["augmentation"][40:61], start["learning_rate"][2:5]
    for begin, end in ((0, 2), (2, 3)):
        part = slice(begin * 7, end * 7)
        alone |= {
            "order": order[part].clone(),
            "augmentation": augmentation[part].clone(),
            "learning_rate": rate[begin:end].clone(),
        }
        alone |= {"num_steps": torch.tensor([end - begin], dtype=torch.int32), "steps_done": torch.tensor([begin])}
        run_kernel(library, alone, program, "adam")
    for key in ("parameters", "first_moment", "second_moment"):
        assert torch.equal(alone[key][0], expected[key][1])


# ---- Edges


def test_divergence_shows_and_stays_with_its_model(library: ctypes.CDLL) -> None:
    for cut in ({"model_batch_bytes": 0}, {}):
        arguments, program = of("small convnet", steps=[5, 1], batch_size=[9, 9])
        arguments["learning_rate"][:5] = 1e20
        loss = run_kernel(library, arguments, program, "sgd", **cut)
        assert not loss[0].isfinite()
        assert loss[1].isfinite()
        assert arguments["parameters"][1].isfinite().all()


def test_wrong_values_are_refused(library: ctypes.CDLL) -> None:
    for name, value, message in (
        ("order", 60, r"order must be in \[0, 60\), got 60 at index 0"),
        ("label", -1, r"label must be in \[0, 5\), got -1 at index 0"),
        ("learning_rate", math.nan, "learning_rate must be finite and >= 0, got nan at index 0"),
    ):
        arguments, program = of("linear")
        before = copied(arguments)
        arguments[name][0] = value
        with pytest.raises(ValueError, match=f"shadow_train: {message}"):
            run_kernel(library, arguments, program, "sgd")
        assert torch.equal(arguments["parameters"], before["parameters"])
    arguments, _ = of("linear")
    with pytest.raises(ValueError, match="no linear or conv2d layer, so there is nothing to train"):
        run_kernel(library, arguments, [*RELU, *FLATTEN], "sgd")


# ---- On a GPU


def cuda_result(arguments: dict[str, Tensor], program: list[int], optimizer: str) -> tuple[dict[str, Tensor], Tensor]:
    on_gpu = {name: tensor.cuda() for name, tensor in arguments.items()}
    loss = run(shadow_train, on_gpu, program, optimizer)
    assert loss.is_cuda
    return {name: tensor.cpu() for name, tensor in on_gpu.items()}, loss.cpu()


@needs_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.parametrize("batch_size", [9, 300])
@pytest.mark.parametrize("name", TRAINABLE)
def test_one_step_on_cuda(name: str, batch_size: int, optimizer: str) -> None:
    arguments, program = of(name, optimizer=optimizer, batch_size=[batch_size, 37], weight_decay=0.1)
    truth = exact(arguments)
    true_loss = run(reference.shadow_train, truth, program, optimizer)
    result, loss = cuda_result(arguments, program, optimizer)
    torch.testing.assert_close(loss.double(), true_loss.double(), rtol=1e-5, atol=1e-5)
    for k in range(2):
        assert relative(result["first_moment"][k], truth["first_moment"][k]) < 1e-5


@needs_gpu
@pytest.mark.parametrize("optimizer", OPTIMIZERS)
def test_cuda_is_deterministic_and_models_are_apart(optimizer: str) -> None:
    sizes: dict[str, Any] = {"steps": [7, 5, 6], "batch_size": [140, 50, 128]}
    arguments, program = of("convnet", num_models=3, optimizer=optimizer, **sizes)
    (expected, loss), (again, loss_again) = (cuda_result(arguments, program, optimizer) for _ in range(2))
    assert torch.equal(loss, loss_again)
    assert torch.equal(expected["parameters"], again["parameters"])
    alone = {name: tensor[1:2] if len(tensor) == 3 else tensor for name, tensor in arguments.items()}
    part, rates = slice(980, 1230), slice(7, 12)
    alone |= {
        "order": arguments["order"][part],
        "augmentation": arguments["augmentation"][part],
        "learning_rate": arguments["learning_rate"][rates],
    }
    result, loss_alone = cuda_result(alone, program, optimizer)
    assert torch.equal(result["parameters"][0], expected["parameters"][1])
    assert loss_alone[0] == loss[1]


@needs_gpu
def test_cuda_learns_what_the_cpu_does() -> None:
    arguments, program = of("convnet", num_models=2, optimizer="adam", steps=[20, 20], batch_size=[33, 128])
    arguments["learning_rate"] /= 10
    truth = exact(arguments)
    run(reference.shadow_train, truth, program, "adam")
    result, _ = cuda_result(arguments, program, "adam")
    assert relative(result["parameters"], truth["parameters"]) < 1e-4


@needs_gpu
def test_cuda_refuses_wrong_values_before_it_trains() -> None:
    arguments, program = of("linear")
    arguments["order"][3] = 60
    on_gpu = {name: tensor.cuda() for name, tensor in arguments.items()}
    with pytest.raises((ValueError, RuntimeError), match=r"order must be in \[0, 60\), got 60 at index 3"):
        run(shadow_train, on_gpu, program, "sgd")
    assert torch.equal(on_gpu["parameters"].cpu(), arguments["parameters"])
    assert (
        why_not_trainable(program, arguments["parameters"].shape[1], arguments["x"].shape[1:], torch.device("cuda"))
        is None
    )
