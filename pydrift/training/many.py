"""Trains many models at once: natively if they are plain chains of layers, else one after another in torch."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.core.errors import UsageError
from pydrift.core.parallel import each
from pydrift.models.arch import NotLowerable, lower
from pydrift.models.live import in_evaluation
from pydrift.models.outputs import to_logits
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import HYPERPARAMETERS, shadow_train, why_not_trainable
from pydrift.training.loop import refuse_divergence, seeded, train

_CPU = torch.device("cpu")
_PROBES = 64  # images on which a module must give the same outputs in training mode as in evaluation mode


@dataclass(frozen=True)
class Checkpoint:
    """The state of K natively trained models between two epochs: all that the training needs to go on.

    epoch          the number of finished epochs
    parameters     float32 [K, P], in the order of the modules' parameters
    first_moment   float32 [K, P]
    second_moment  float32 [K, P], or [K, 0] with sgd
    """

    epoch: int
    parameters: Tensor
    first_moment: Tensor
    second_moment: Tensor


def train_many(
    starts: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    drawn: Sequence[NDArray[np.int64]],
    recipes: Sequence[TrainingRecipe],
    seeds: Sequence[int],
    *,
    device: torch.device,
    built_in: bool = False,
    resume: Checkpoint | None = None,
    on_epoch: Callable[[Checkpoint], None] | None = None,
) -> list[nn.Module]:
    """Trains each start module on its own draw from one pool of images.

    starts     K modules of one architecture; they are not changed
    x, y       the pool: [N, C, H, W], float32 in [0, 1] or uint8 (value / 255), and int64 [N]
    drawn      for each model, the indices of its images: int64
    recipes    for each model; in native training they must share the optimizer only
    seeds      for each model, of the order of its images and of its augmentation
    device     "cpu", or "cuda" where the CUDA library is loaded; in native training the pool and all states live there
    built_in   whether the architecture is one of pydrift's own; then torch trains models side by side on the CPU
    resume     native training only: the state to go on from
    on_epoch   native training only: called after each epoch, with tensors on `device` that training then changes.
               torch trains each model to its end before the next one, so there is no such moment

    Returns the trained modules, frozen, in eval mode, on the CPU. Each depends on its own arguments only. Native
    training and torch agree up to rounding errors, which training amplifies. PydriftError if training diverges;
    UsageError for `resume` without native training.
    """
    program = native_program(starts[0], x, device) if starts else None
    common = {(recipe.optimizer, recipe.precision) for recipe in recipes}
    if program is None or common not in ({("adam", "float32")}, {("sgd", "float32")}):
        if resume is not None:
            raise UsageError("resume: only native training can go on from a checkpoint")
        return list(_train_in_torch(starts, x, y, drawn, recipes, seeds, device, built_in))
    state = _to_device(device, _initial_state(starts, recipes) if resume is None else copy.deepcopy(resume))
    for after in _epochs(state, program, x.to(device), y.to(device, torch.int32), drawn, recipes, seeds):
        if on_epoch is not None:
            on_epoch(after)
    parameters = _to_device(_CPU, state).parameters
    refuse_divergence(parameters)
    return [_freeze(_with_parameters(start, row)) for start, row in zip(starts, parameters, strict=True)]


def native_program(module: nn.Module, x: Tensor, device: torch.device) -> list[int] | None:
    """The layer program by which `shadow_train` trains the module on images like x [N, C, H, W]; None if it cannot.

    The program must describe the module completely: all parameters, in their order, all trainable. The outputs must be
    the same in training mode as in evaluation mode, so there is no dropout and no BatchNorm.
    """
    if not all(parameter.requires_grad for parameter in module.parameters()):
        return None
    channels, height, width = x.shape[1:]
    try:
        lowered = lower(module, (channels, height, width))
    except NotLowerable:
        return None
    parameters = _flat(module)
    if parameters.dtype != torch.float32 or not torch.equal(parameters, lowered.parameters()):
        return None
    program = lowered.program()
    if why_not_trainable(program, lowered.num_parameters, (channels, height, width), device) is not None:
        return None
    in_training = copy.deepcopy(module)
    in_training.train()
    with seeded(0), torch.no_grad():
        probes = torch.rand(_PROBES, channels, height, width)
        same = torch.allclose(to_logits(in_training(probes), _PROBES), lowered(probes), rtol=1e-4, atol=1e-4)
    return program if same else None


def _initial_state(starts: Sequence[nn.Module], recipes: Sequence[TrainingRecipe]) -> Checkpoint:
    parameters = torch.stack([_flat(start) for start in starts])
    second = torch.zeros_like(parameters) if recipes[0].optimizer == "adam" else torch.zeros(len(starts), 0)
    return Checkpoint(0, parameters, torch.zeros_like(parameters), second)


def _to_device(device: torch.device, state: Checkpoint) -> Checkpoint:
    """The state with its tensors on `device`; tensors that are there already are not copied."""
    tensors = {name: getattr(state, name).to(device) for name in ("parameters", "first_moment", "second_moment")}
    return replace(state, **tensors)


def _epochs(
    state: Checkpoint,
    program: list[int],
    x: Tensor,
    y: Tensor,
    drawn: Sequence[NDArray[np.int64]],
    recipes: Sequence[TrainingRecipe],
    seeds: Sequence[int],
) -> Iterator[Checkpoint]:
    """Trains from `state` on, in place, and yields it after each epoch. Models with fewer epochs wait at the end."""
    sizes = [len(part) for part in drawn]
    epochs = [recipe.epochs_for(size) for recipe, size in zip(recipes, sizes, strict=True)]
    steps = np.array([recipe.steps_per_epoch(size) for recipe, size in zip(recipes, sizes, strict=True)])
    rates = [recipe.rates(size) for recipe, size in zip(recipes, sizes, strict=True)]
    hyperparameters = torch.tensor(
        [_hyperparameters(recipe) for recipe in recipes], dtype=torch.float64, device=x.device
    )
    batch_size = torch.tensor(
        [r.batch_size_for(n) for r, n in zip(recipes, sizes, strict=True)], dtype=torch.int32, device=x.device
    )
    augmented = any(recipe.augment for recipe in recipes)
    for epoch in range(state.epoch, max(epochs)):
        running = [k for k in range(len(drawn)) if epoch < epochs[k]]
        order, augmentation, learning_rate = [], [], []
        for k in running:
            positions, moves = recipes[k].epoch(seeds[k], epoch, sizes[k])
            order.append(drawn[k][positions].astype(np.int32))
            augmentation.append(
                moves if recipes[k].augment else np.zeros((len(positions) if augmented else 0, 3), np.int8)
            )
            learning_rate.append(rates[k][epoch * steps[k] : (epoch + 1) * steps[k]])
        num_steps = np.zeros(len(drawn), np.int32)
        num_steps[running] = steps[running]
        shadow_train(
            x,
            y,
            state.parameters,
            state.first_moment,
            state.second_moment,
            torch.from_numpy(np.concatenate(order)).to(x.device),
            torch.from_numpy(np.concatenate(augmentation)).to(x.device),
            torch.from_numpy(epoch * steps).to(x.device),
            torch.from_numpy(num_steps).to(x.device),
            batch_size,
            torch.from_numpy(np.concatenate(learning_rate)).to(x.device),
            hyperparameters,
            program=program,
            optimizer="adam" if recipes[0].optimizer == "adam" else "sgd",
        )
        yield replace(state, epoch=epoch + 1)


def _hyperparameters(recipe: TrainingRecipe) -> list[float]:
    """The values of HYPERPARAMETERS for `shadow_train`; beta2 and epsilon are the defaults of torch.optim.AdamW."""
    columns = {
        "beta1": 0.9 if recipe.optimizer == "adam" else recipe.momentum,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": recipe.weight_decay,
        "label_smoothing": recipe.label_smoothing,
    }
    return [columns[name] for name in HYPERPARAMETERS]


def _train_in_torch(
    starts: Sequence[nn.Module],
    x: Tensor,
    y: Tensor,
    drawn: Sequence[NDArray[np.int64]],
    recipes: Sequence[TrainingRecipe],
    seeds: Sequence[int],
    device: torch.device,
    built_in: bool,
) -> Iterator[nn.Module]:
    def trained(k: int) -> nn.Module:
        images = x[drawn[k]]
        images = images / 255.0 if images.dtype == torch.uint8 else images
        with nullcontext() if built_in else seeded(seeds[k]):
            module = copy.deepcopy(starts[k]).to(device)
            return _freeze(train(module, images, y[drawn[k]], recipes[k], seeds[k], channels_last=built_in).cpu())

    # Only built-in architectures are known not to draw from torch's global generator, which threads would share.
    side_by_side = built_in and device.type == "cpu"
    return each(trained, range(len(starts))) if side_by_side else map(trained, range(len(starts)))


def _flat(module: nn.Module) -> Tensor:
    """The module's parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def _with_parameters(start: nn.Module, parameters: Tensor) -> nn.Module:
    """A copy of `start` with these parameters."""
    module = copy.deepcopy(start)
    sizes = [parameter.numel() for parameter in module.parameters()]
    with torch.no_grad():
        for parameter, values in zip(module.parameters(), parameters.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))
    return module


def _freeze(module: nn.Module) -> nn.Module:
    return in_evaluation(module)
