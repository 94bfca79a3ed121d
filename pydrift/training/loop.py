"""Trains one model in torch, as plainly as possible: any module, any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydrift.core.errors import PydriftError
from pydrift.models.outputs import to_logits
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops.reference import augment_images

Train = Callable[[Tensor, Tensor, int], nn.Module]
"""A user's own training: (x float32 [N, C, H, W] in [0, 1], y int64 [N], seed) -> trained module."""


def train(
    module: nn.Module, x: Tensor, y: Tensor, recipe: TrainingRecipe, seed: int, *, channels_last: bool = False
) -> nn.Module:
    """Trains `module` in place with cross-entropy; returns it in eval mode.

    x, y           float32 [N, C, H, W] in [0, 1] and int64 [N]; they are copied to the module's device, which must have
                   room for all images, and are augmented there
    seed           of the order of the images and of their augmentation
    channels_last  use the memory layout in which convolutions are faster; a forward that calls `view` may not accept it

    Each step is a pure function of (seed, epoch). So one machine, torch version and number of intra-op threads give the
    same bits. Training itself does not use torch's global generator; for modules that do (dropout) see `seeded`.
    PydriftError if training diverges.
    """
    batch_size = recipe.batch_size_for(len(x))
    device = next(module.parameters()).device
    x, y = x.to(device), y.to(device)
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    module.train()
    optimizer = _optimizer(module, recipe)
    rates = iter(recipe.rates(len(x)).tolist())
    for epoch in range(recipe.epochs_for(len(x))):
        order, augmentation = (torch.from_numpy(part).to(device) for part in recipe.epoch(seed, epoch, len(x)))
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            images = (
                augment_images(x[batch], augmentation[first : first + batch_size]) if len(augmentation) else x[batch]
            )
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = to_logits(module(images.contiguous(memory_format=memory_format)), len(batch))
            loss = F.cross_entropy(logits, y[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    refuse_divergence(module.state_dict().values())
    module.eval()
    return module


def refuse_divergence(tensors: Iterable[Tensor]) -> None:
    """PydriftError if trained weights are not finite."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise PydriftError("training diverged: the weights are not finite; lower the learning rate")


def _optimizer(module: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters; the loop sets its learning rate before each step."""
    if recipe.optimizer == "adam":
        return torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    return torch.optim.SGD(
        module.parameters(),
        lr=recipe.learning_rate,
        momentum=recipe.momentum,
        nesterov=recipe.momentum > 0,
        weight_decay=recipe.weight_decay,
    )


@contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seeds torch's global generators inside the with block and restores them after it. Not for use in threads."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def predict(forward: Callable[[Tensor], Tensor], x: Tensor, batch_size: int = 512) -> Tensor:
    """The class with the largest logit of every image: int64 [N]. x float32 [N, C, H, W]."""
    with torch.no_grad():
        return torch.cat([to_logits(forward(part), len(part)).argmax(1) for part in x.split(batch_size)])
