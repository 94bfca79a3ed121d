"""Training, as plainly as possible: the recipe is a value that travels with the model, so shadows can repeat it."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from pydrift.errors import PydriftError, UsageError
from pydrift.store import parse_strict_json

Train = Callable[[Tensor, Tensor, int], nn.Module]
"""A user's own training: (x float32 [N, C, H, W], y int64 [N], seed) -> trained module."""

_MIN_STEPS = 1500  # fewer leave a small network on a small set (digits) visibly under-trained
_MIN_EPOCHS = 8


@dataclass(frozen=True)
class TrainingRecipe:
    """How a model is trained: Adam, linear warm-up over the first tenth of the steps, then cosine decay to zero.

    epochs           passes over the drawn images; 0 means as many as give 1,500 steps, and 8 at least
    batch_size       images a step
    learning_rate    peak
    weight_decay     decoupled (AdamW)
    label_smoothing  in [0, 1)
    """

    epochs: int = 0
    batch_size: int = 64
    learning_rate: float = 2e-3
    weight_decay: float = 0.0
    label_smoothing: float = 0.0

    def __post_init__(self) -> None:
        if not (isinstance(self.epochs, int) and isinstance(self.batch_size, int)):
            raise UsageError(f"recipe: epochs and batch_size must be integers, got {self.epochs} and {self.batch_size}")
        if self.epochs < 0 or self.batch_size < 2:
            raise UsageError(f"recipe: epochs >= 0, batch_size >= 2, got {self.epochs} and {self.batch_size}")
        in_range = self.learning_rate > 0 and self.weight_decay >= 0 and 0 <= self.label_smoothing < 1
        if not (in_range and math.isfinite(self.learning_rate + self.weight_decay)):
            raise UsageError(f"recipe: learning_rate > 0, weight_decay >= 0, 0 <= label_smoothing < 1, got {self}")

    def epochs_for(self, images: int) -> int:
        """The number of passes over `images` images that this recipe makes."""
        if self.epochs:
            return self.epochs
        steps_per_epoch = max(1, images // self.batch_size)
        return max(_MIN_EPOCHS, math.ceil(_MIN_STEPS / steps_per_epoch))

    def continued(self, images: int) -> TrainingRecipe:
        """The same recipe for training on from existing weights: a quarter of the epochs, a quarter of the rate."""
        return replace(self, epochs=math.ceil(self.epochs_for(images) / 4), learning_rate=self.learning_rate / 4)

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> TrainingRecipe:
        """Reads `to_json`'s text. UsageError on anything else."""
        try:
            raw = parse_strict_json(text.encode())
            unknown = set(raw) - {f.name for f in fields(cls)}
            if unknown:
                raise ValueError(f"unknown keys {sorted(unknown)}")
            return cls(**raw)
        except (TypeError, ValueError) as error:
            raise UsageError(f"recipe: not readable: {error}") from error


def train(
    module: nn.Module, x: Tensor, y: Tensor, recipe: TrainingRecipe, seed: int, *, channels_last: bool = False
) -> nn.Module:
    """Trains `module` in place, on its device, on x float32 [N, C, H, W], y int64 [N]; returns it in eval mode.

    channels_last  the memory layout in which convolutions are faster; a forward that uses `view` may not take it

    The order of the images is a pure function of (seed, epoch), so the result is the same bits for the same machine,
    torch and number of intra-op threads. Incomplete last batches are left out. PydriftError if training diverges.
    torch's global generator is not used by the training itself; see `seeded` for modules that draw from it (dropout).
    """
    batch_size = min(recipe.batch_size, len(x))
    steps_per_epoch = len(x) // batch_size
    epochs = recipe.epochs_for(len(x))
    total = epochs * steps_per_epoch
    warmup = max(1, total // 10)

    def schedule(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    device = next(module.parameters()).device
    memory_format = torch.channels_last if channels_last else torch.contiguous_format
    module.to(memory_format=memory_format)  # type: ignore[call-overload]
    module.train()
    optimizer = torch.optim.AdamW(module.parameters(), lr=recipe.learning_rate, weight_decay=recipe.weight_decay)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, schedule)
    for epoch in range(epochs):
        order = torch.from_numpy(_order(seed, epoch, len(x)))
        for step in range(steps_per_epoch):
            batch = order[step * batch_size : (step + 1) * batch_size]
            logits = module(x[batch].to(device).contiguous(memory_format=memory_format))
            loss = F.cross_entropy(logits, y[batch].to(device), label_smoothing=recipe.label_smoothing)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            scheduler.step()
    module.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    if not all(tensor.isfinite().all() for tensor in module.state_dict().values()):
        raise PydriftError("training diverged: the weights are not finite; lower the learning rate")
    return module.eval()


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


def _order(seed: int, epoch: int, count: int) -> np.ndarray:
    return np.random.Generator(np.random.Philox(key=[seed, epoch])).permutation(count)
