"""Training many models at once: natively where they are plain chains of layers, else one after another in torch."""

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
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import HYPER, shadow_train, trains
from pydrift.training.loop import refuse_divergence, seeded, train

_CPU = torch.device("cpu")
_PROBES = 64  # images by which a module is asked whether it does in training what it does in evaluation


@dataclass(frozen=True)
class Checkpoint:
    """K models between two epochs, natively trained: all that the training needs to go on.

    epoch          passes that are done
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
    """Trains each start on its draw of a pool of images; returns the trained modules, frozen, in eval mode, on the CPU.

    starts     K modules of one architecture; they are not changed
    x, y       the pool: float32 or uint8 (value / 255) [N, C, H, W], int64 [N]
    drawn      of each model, the indices of its images
    recipes    of each model; natively they may differ in all but the optimizer
    seeds      of each model, of the order of its images and of its augmentation
    device     natively the CPU, or CUDA where that library is loaded: the pool and all states then live there
    built_in   the architecture is one of pydrift's own: in torch, models are then trained side by side on the CPU
    resume     natively: go on from there
    on_epoch   natively: called after each epoch, with tensors on `device` that training goes on to change. In torch a
               model is trained to its end before the next one, and there is no such moment

    A result depends on its own model's arguments only. The native path and torch agree to rounding errors, which
    training amplifies. PydriftError if training diverges.
    """
    program = native_program(starts[0], x, device) if starts else None
    common = {(recipe.optimizer, recipe.precision) for recipe in recipes}
    if program is None or common not in ({("adam", "float32")}, {("sgd", "float32")}):
        if resume is not None:
            raise UsageError("only natively trained models can go on from a checkpoint")
        return list(_in_torch(starts, x, y, drawn, recipes, seeds, device, built_in))
    state = _on(device, _begin(starts, recipes) if resume is None else copy.deepcopy(resume))
    for after in _epochs(state, program, x.to(device), y.to(device, torch.int32), drawn, recipes, seeds):
        if on_epoch is not None:
            on_epoch(after)
    parameters = _on(_CPU, state).parameters
    refuse_divergence(parameters)
    return [_frozen(_module_of(start, row)) for start, row in zip(starts, parameters, strict=True)]


def native_program(module: nn.Module, x: Tensor, device: torch.device) -> list[int] | None:
    """The layer program by which `shadow_train` trains the module on images like x, or None where it cannot.

    It must be the whole truth: all of the module's parameters, in their order, all of them learning, and the same
    outputs in training mode as in evaluation (no dropout, no BatchNorm).
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
    if trains(program, lowered.num_parameters, (channels, height, width), device) is not None:
        return None
    in_training = copy.deepcopy(module).train()
    with seeded(0), torch.no_grad():
        probes = torch.rand(_PROBES, channels, height, width)
        same = torch.allclose(in_training(probes), lowered(probes), rtol=1e-4, atol=1e-4)
    return program if same else None


def _begin(starts: Sequence[nn.Module], recipes: Sequence[TrainingRecipe]) -> Checkpoint:
    parameters = torch.stack([_flat(start) for start in starts])
    second = torch.zeros_like(parameters) if recipes[0].optimizer == "adam" else torch.zeros(len(starts), 0)
    return Checkpoint(0, parameters, torch.zeros_like(parameters), second)


def _on(device: torch.device, state: Checkpoint) -> Checkpoint:
    """The state with its tensors on `device`; those that are there are the same, not copies."""
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
    """Trains on from `state`, whose tensors change, epoch after epoch; models whose recipe has fewer of them wait."""
    sizes = [len(part) for part in drawn]
    epochs = [recipe.epochs_for(size) for recipe, size in zip(recipes, sizes, strict=True)]
    steps = np.array([recipe.steps_per_epoch(size) for recipe, size in zip(recipes, sizes, strict=True)])
    rates = [recipe.rates(size) for recipe, size in zip(recipes, sizes, strict=True)]
    hyper = torch.tensor([_hyper(recipe) for recipe in recipes], dtype=torch.float64, device=x.device)
    batch_size = torch.tensor(
        [r.batch_size_for(n) for r, n in zip(recipes, sizes, strict=True)], dtype=torch.int32, device=x.device
    )
    augmented = any(recipe.augment for recipe in recipes)
    for epoch in range(state.epoch, max(epochs)):
        running = [k for k in range(len(drawn)) if epoch < epochs[k]]
        order, look, rate = [], [], []
        for k in running:
            positions, looks = recipes[k].epoch(seeds[k], epoch, sizes[k])
            order.append(drawn[k][positions].astype(np.int32))
            look.append(looks if recipes[k].augment else np.zeros((len(positions) if augmented else 0, 3), np.int8))
            rate.append(rates[k][epoch * steps[k] : (epoch + 1) * steps[k]])
        num_steps = np.zeros(len(drawn), np.int32)
        num_steps[running] = steps[running]
        shadow_train(
            x,
            y,
            state.parameters,
            state.first_moment,
            state.second_moment,
            torch.from_numpy(np.concatenate(order)).to(x.device),
            torch.from_numpy(np.concatenate(look)).to(x.device),
            torch.from_numpy(epoch * steps).to(x.device),
            torch.from_numpy(num_steps).to(x.device),
            batch_size,
            torch.from_numpy(np.concatenate(rate)).to(x.device),
            hyper,
            program=program,
            optimizer="adam" if recipes[0].optimizer == "adam" else "sgd",
        )
        yield replace(state, epoch=epoch + 1)


def _hyper(recipe: TrainingRecipe) -> list[float]:
    """The columns HYPER of `shadow_train`; what torch.optim.AdamW has by default."""
    columns = {
        "beta1": 0.9 if recipe.optimizer == "adam" else recipe.momentum,
        "beta2": 0.999,
        "epsilon": 1e-8,
        "weight_decay": recipe.weight_decay,
        "label_smoothing": recipe.label_smoothing,
    }
    return [columns[name] for name in HYPER]


def _in_torch(
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
            return _frozen(train(module, images, y[drawn[k]], recipes[k], seeds[k], channels_last=built_in).cpu())

    # Only the built-in architectures are known not to draw from torch's global generator, which threads would share.
    side_by_side = built_in and device.type == "cpu"
    return each(trained, range(len(starts))) if side_by_side else map(trained, range(len(starts)))


def _flat(module: nn.Module) -> Tensor:
    """The module's parameters as one vector."""
    return torch.cat([parameter.detach().flatten() for parameter in module.parameters()])


def _module_of(start: nn.Module, parameters: Tensor) -> nn.Module:
    """A copy of `start` with these parameters."""
    module = copy.deepcopy(start)
    sizes = [parameter.numel() for parameter in module.parameters()]
    with torch.no_grad():
        for parameter, values in zip(module.parameters(), parameters.split(sizes), strict=True):
            parameter.copy_(values.view_as(parameter))
    return module


def _frozen(module: nn.Module) -> nn.Module:
    return module.eval().requires_grad_(False)
