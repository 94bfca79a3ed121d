"""Training one model in torch, as plainly as possible: any module, any device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydrift.core.errors import PydriftError
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops.reference_train import looked_at

Train = Callable[[Tensor, Tensor, int], nn.Module]
"""A user's own training: (x float32 [N, C, H, W], y int64 [N], seed) -> trained module."""


def train(
    module: nn.Module, x: Tensor, y: Tensor, recipe: TrainingRecipe, seed: int, *, channels_last: bool = False
) -> nn.Module:
    """Trains `module` in place, on x float32 [N, C, H, W], y int64 [N]; returns it in eval mode.

    The images are copied to the module's device, which must have room for all, and drawn, shifted and mirrored there.
    channels_last  the memory layout in which convolutions are faster; a forward that uses `view` may not take it

    What each step takes is a pure function of (seed, epoch), so the result is the same bits for the same machine, torch
    and number of intra-op threads. PydriftError if training diverges.
    torch's global generator is not used by the training itself; see `seeded` for modules that draw from it (dropout).
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
        order, look = (torch.from_numpy(part).to(device) for part in recipe.epoch(seed, epoch, len(x)))
        for first in range(0, len(order), batch_size):
            batch = order[first : first + batch_size]
            images = looked_at(x[batch], look[first : first + batch_size]) if len(look) else x[batch]
            with torch.autocast(device.type, torch.bfloat16, enabled=recipe.precision == "bfloat16"):
                logits = module(images.contiguous(memory_format=memory_format)).float()
            loss = F.cross_entropy(logits, y[batch], label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.param_groups[0]["lr"] = next(rates)
            optimizer.step()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    refuse_divergence(module.state_dict().values())
    return module.eval()


def refuse_divergence(tensors: Iterable[Tensor]) -> None:
    """PydriftError where trained weights are not finite."""
    if not all(tensor.isfinite().all() for tensor in tensors):
        raise PydriftError("training diverged: the weights are not finite; lower the learning rate")


def _optimizer(module: nn.Module, recipe: TrainingRecipe) -> torch.optim.Optimizer:
    """The recipe's optimizer over all parameters; its rate is set before each step."""
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
    """torch's global generators seeded with `seed` inside; their states come back unchanged. Not for threads."""
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        torch.manual_seed(seed)
        yield


def predict(forward: Callable[[Tensor], Tensor], x: Tensor, batch_size: int = 512) -> Tensor:
    """The arg-max class of every image: int64 [N]."""
    with torch.no_grad():
        return torch.cat([forward(part).argmax(1) for part in x.split(batch_size)])
