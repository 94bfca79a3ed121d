"""The work that is timed: steps of restarts of random networks, by the op and by pydrift's generic path."""

import copy
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn
from torch.fx.experimental.optimization import fuse

from pydrift.core.noise import Phase, integers, uniform, words
from pydrift.inversion import GradientAscent
from pydrift.models.arch import NotLowerable, build, lower
from pydrift.models.arch.fused import FusedModel
from pydrift.models.classifier import freeze
from pydrift.ops import AscentOptions, Precision, invert

SEED = 0
LEARNING_RATE, BETA1, BETA2, EPSILON, TV_WEIGHT, L2_WEIGHT = 0.05, 0.9, 0.999, 1e-8, 1e-3, 1e-3
START_CONTRAST = 0.2
NEVER: dict[str, Any] = {"confidence_threshold": 2.0, "patience": 2**30}


Run = Callable[[], Tensor]  # returns the final images [N, C, H, W]


@dataclass(frozen=True)
class Task:
    """Inverts `num_models` random networks: `restarts` restarts of each class, `steps` steps each.

    block  restarts of one model that a peer runs together
    """

    arch: str
    restarts: int
    steps: int
    device: torch.device
    num_models: int = 1
    jitter: int = 0
    block: int = 2**30
    dtype: torch.dtype = torch.float32

    @cached_property
    def networks(self) -> list[nn.Module]:
        """The networks, frozen, in evaluation mode, with BatchNorm folded."""
        built = [build(self.arch, seed).eval().requires_grad_(False) for seed in range(self.num_models)]
        has_norm = any(isinstance(part, nn.BatchNorm2d) for part in built[0].modules())
        return [(fuse(network) if has_norm else network).to(self.device, self.dtype) for network in built]

    @cached_property
    def lowered(self) -> list[FusedModel] | None:
        """The networks as layer programs in float32. None where they cannot be lowered."""
        try:
            return [lower(network, self.input_shape).to(self.device) for network in self.networks]
        except NotLowerable:
            return None

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = map(int, self.arch.split(":")[1].split("x"))
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return int(self.arch.split(":")[-1])

    @property
    def per_model(self) -> int:
        return self.num_classes * self.restarts

    @property
    def num_restarts(self) -> int:
        return self.num_models * self.per_model

    @property
    def model(self) -> Tensor:
        return torch.arange(self.num_models, dtype=torch.int32, device=self.device).repeat_interleave(self.per_model)

    @cached_property
    def label(self) -> Tensor:
        label = torch.arange(self.num_classes, device=self.device).repeat_interleave(self.restarts)
        return label.repeat(self.num_models)

    @cached_property
    def restart(self) -> Tensor:
        return torch.arange(self.restarts, device=self.device).repeat(self.num_models * self.num_classes)

    @cached_property
    def x(self) -> Tensor:
        """The images [N, C, H, W] from which `GradientAscent` starts."""
        where: dict[str, Any] = {"label": self.label.cpu().numpy(), "restart": self.restart.cpu().numpy()}
        channels, height, width = self.input_shape
        noise = uniform(words(SEED, Phase.START, channels * height * width, **where))
        starts = torch.from_numpy(0.5 + START_CONTRAST * (noise - 0.5)).to(torch.float32).to(self.device, self.dtype)
        return starts.view(-1, *self.input_shape)

    @cached_property
    def shifts(self) -> list[Tensor] | None:
        """The shifts of each step, [N, 2], down and right. None without jitter."""
        if self.jitter == 0:
            return None
        where: dict[str, Any] = {"label": self.label.cpu().numpy(), "restart": self.restart.cpu().numpy()}
        bits = [words(SEED, Phase.JITTER, 2, step=step, **where) for step in range(self.steps)]
        return [torch.from_numpy(integers(b, -self.jitter, self.jitter)).to(self.device) for b in bits]

    @cached_property
    def corrections(self) -> list[tuple[Tensor, Tensor]]:
        """For each step the rate of the first moment, and the scale of the root of the second."""
        values = [(LEARNING_RATE / (1 - BETA1**t), (1 - BETA2**t) ** -0.5) for t in range(1, self.steps + 1)]
        table = torch.tensor(values, dtype=self.dtype, device=self.device)
        return [(row[0].clone(), row[1].clone()) for row in table]  # aligned, as compiled code wants its inputs

    def blocks(self, one: bool = False) -> Iterator[tuple[int, slice]]:
        """Yields model and restarts of each block. With `one` a single block has all restarts of all models."""
        if one:
            yield 0, slice(None)
            return
        for model in range(self.num_models):
            first, last = model * self.per_model, (model + 1) * self.per_model
            for start in range(first, last, min(self.block, self.per_model)):
                yield model, slice(start, min(start + self.block, last))


def native(task: Task, precision: Precision = "float32") -> Run:
    """Runs the task by the native op."""
    models = task.lowered
    assert models is not None
    parameters, program = torch.stack([m.parameters() for m in models]), models[0].program()
    model, label, restart = task.model, task.label.int(), task.restart.int()

    def run() -> Tensor:
        x = task.x.clone()
        how: dict[str, Any] = {"program": program, "max_steps": task.steps, "seed": SEED, "jitter": task.jitter}
        invert(x, parameters, model, label, restart, precision=precision, options=options(**NEVER), **how)
        return x

    return run


def options(*, confidence_threshold: float, patience: int) -> AscentOptions:
    """Returns the options of the ascent, as the ops take them."""
    return AscentOptions(
        optimizer="adam",
        learning_rate=LEARNING_RATE,
        beta1=BETA1,
        beta2=BETA2,
        epsilon=EPSILON,
        tv_weight=TV_WEIGHT,
        l2_weight=L2_WEIGHT,
        lower=0.0,
        upper=1.0,
        confidence_threshold=confidence_threshold,
        patience=patience,
    )


def generic(task: Task, steps: int | None = None) -> Run:
    """Runs the task by pydrift's path for networks that cannot be lowered.

    A forward hook makes any network one that cannot be lowered.
    """
    network = copy.deepcopy(task.networks[0])
    network.register_forward_hook(lambda *_: None)
    classifier = freeze(network, task.input_shape, task.device)
    attack = GradientAscent(steps=steps or task.steps, jitter=task.jitter, **NEVER)

    def run() -> Tensor:
        images = attack.invert(classifier, task.restarts, SEED).images
        return torch.from_numpy(images).view(-1, *task.input_shape)

    return run
