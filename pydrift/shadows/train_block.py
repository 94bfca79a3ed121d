"""Trains the shadows of one block side by side: each is a function of the plan and of its own number only."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import each, intra_op_threads
from pydrift.data import LabelledImages
from pydrift.models.intake import AuditedModel
from pydrift.models.live import copied, let_learn
from pydrift.shadows.checkpoint import BlockCheckpoint
from pydrift.shadows.plan import ShadowPlan
from pydrift.shadows.start import fresh_start, reinitialise, state_shapes
from pydrift.shadows.tasks import Trained
from pydrift.training import Train, native_program, predict, seeded, train_many

_MAX_SCORED = 2000  # images that a shadow's accuracy is measured on
_GPU_MODELS, _GPU_STATES = 64, 4 << 30  # limits of a block on a GPU: models, and bytes of weights and moments


@dataclass(frozen=True)
class BlockTrainer:
    """Trains blocks of a plan's shadows. `checkpoint` gives the file that keeps a block's training between epochs."""

    plan: ShadowPlan
    start: AuditedModel
    data: LabelledImages
    user_train: Train | None
    device: torch.device
    checkpoint: Callable[[Sequence[int]], BlockCheckpoint] | None = None

    def __call__(self, numbers: Sequence[int]) -> list[Trained]:
        """State dict and accuracy of each of the shadows of these numbers."""
        drawn = [self.plan.indices(k) for k in numbers]
        threads = self.plan.arithmetic.get("threads")
        with intra_op_threads(int(threads)) if threads else nullcontext():
            models = self._train_by_user(numbers, drawn) if self.user_train else self._train_by_recipe(numbers, drawn)
            spread = map if threads else each  # `each` gives every model one intra-op thread
            accuracy = spread(lambda i: _unseen_accuracy(models[i], self.data, drawn[i]), range(len(models)))
            return [(model.state_dict(), unseen) for model, unseen in zip(models, accuracy, strict=True)]

    def _seeds(self, numbers: Sequence[int]) -> list[int]:
        return [derived_seed(self.plan.seed, Phase.SHADOW_TRAIN, k) for k in numbers]

    def _train_by_user(self, numbers: Sequence[int], drawn: Sequence[NDArray[np.int64]]) -> list[nn.Module]:
        assert self.user_train is not None
        x, y = self.data.x, self.data.y
        return [
            _call_user_train(self.user_train, self.start.module, x[indices], y[indices], seed)
            for indices, seed in zip(drawn, self._seeds(numbers), strict=True)
        ]

    def _train_by_recipe(self, numbers: Sequence[int], drawn: Sequence[NDArray[np.int64]]) -> list[nn.Module]:
        recipes = [self.plan.recipe_of(k) for k in numbers]
        if self.plan.update_mode == "finetune":
            recipes = [recipe.continued(len(part)) for recipe, part in zip(recipes, drawn, strict=True)]
        how: dict[str, Any] = {"device": self.device, "built_in": self.start.built_in}
        if self.checkpoint is not None:
            checkpoint = self.checkpoint(numbers)
            how |= {"resume": checkpoint.load(), "on_epoch": checkpoint}
        seeds = self._seeds(numbers)
        starts = self._start_modules(seeds)
        return train_many(starts, self.data.x, self.data.y, drawn, recipes, seeds, **how)

    def _start_modules(self, seeds: Sequence[int]) -> list[nn.Module]:
        """A copy of the start model for each seed, or a freshly initialised one."""
        module = self.start.module
        if self.plan.update_mode == "finetune":
            return [let_learn(copy.deepcopy(module), self.start.frozen) for _ in seeds]
        initial = self.start.initial()
        if initial is None:
            return [reinitialise(module, seed, self.start.frozen) for seed in seeds]
        return [fresh_start(initial, seed, module) for seed in seeds]


def models_per_block(start: AuditedModel, plan: ShadowPlan, x: Tensor, asked: int | None) -> int:
    """How many models are trained side by side: `asked`, or as many as keep the device busy in a short block."""
    if asked is not None:
        if asked < 1:
            raise UsageError(f"a block needs at least one shadow, got {asked}")
        return asked
    if plan.own_training is not None:
        return 1
    learning, device = let_learn(copy.deepcopy(start.module), start.frozen), plan.device
    natively = plan.recipe.precision == "float32" and native_program(learning, x, device) is not None
    if device.type == "cpu":
        return torch.get_num_threads() if natively or start.built_in else 1
    states = 3 * sum(parameter.numel() * parameter.element_size() for parameter in learning.parameters())
    return max(1, min(_GPU_MODELS, _GPU_STATES // states)) if natively else 1


def _call_user_train(user_train: Train, base: nn.Module, x: Tensor, y: Tensor, seed: int) -> nn.Module:
    with seeded(seed):
        trained = user_train(x, y, seed)
    trained = copied(trained)  # the user may train the same module object again
    if state_shapes(trained) != state_shapes(base):
        raise UsageError("train= returned a model whose parameters do not have the names and shapes of the base's")
    trained.eval()
    return trained.cpu()


def _unseen_accuracy(module: nn.Module, data: LabelledImages, drawn: NDArray[np.int64]) -> float | None:
    """Accuracy on up to about 2,000 images that were not drawn; None where all were drawn.

    The images are spread evenly over the data, which may be sorted by class.
    """
    unseen = np.setdiff1d(np.arange(len(data)), drawn)
    if len(unseen) == 0:
        return None
    unseen = unseen[:: -(-len(unseen) // _MAX_SCORED)]
    return float((predict(module, data.x[unseen]) == data.y[unseen]).float().mean())
