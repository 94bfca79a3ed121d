"""The work that is timed: statistics of many random networks on the same images, and training steps of many."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor, nn

from bench.common.flops import first_layer_flops, forward_flops
from pydrift.models.arch import build, lower
from pydrift.models.arch.fused import FusedModel

MOMENTUM, BETA1, BETA2, EPSILON = 0.9, 0.9, 0.999, 1e-8
SGD, ADAM = "sgd", "adam"  # with Nesterov momentum; AdamW


@dataclass(frozen=True)
class Task:
    """`num_models` random networks and `num_images` random images.

    block       images that a peer passes through a network together
    batch_size  images of a training step
    steps       training steps of each model; 0: statistics are measured, and nothing is trained
    """

    arch: str
    num_models: int
    num_images: int
    device: torch.device
    block: int = 2**30
    batch_size: int = 0
    steps: int = 0
    optimizer: str = SGD
    weight_decay: float = 5e-4
    dtype: torch.dtype = torch.float32

    def built(self) -> list[nn.Module]:
        """Makes the networks anew, because training changes them."""
        return [build(self.arch, seed).to(self.device, self.dtype) for seed in range(self.num_models)]

    @cached_property
    def networks(self) -> list[nn.Module]:
        """The networks, frozen."""
        return [network.eval().requires_grad_(False) for network in self.built()]

    @cached_property
    def lowered(self) -> list[FusedModel]:
        """The networks as layer programs in float32."""
        return [lower(network, self.input_shape).to(self.device) for network in self.networks]

    @cached_property
    def parameters(self) -> Tensor:
        """The weights as the ops take them, float32 [K, P]."""
        return torch.stack([model.parameters() for model in self.lowered])

    @property
    def input_shape(self) -> tuple[int, int, int]:
        channels, height, width = map(int, self.arch.split(":")[1].split("x"))
        return channels, height, width

    @property
    def num_classes(self) -> int:
        return int(self.arch.split(":")[-1])

    @property
    def learning_rate(self) -> float:
        return 1e-3 if self.optimizer == ADAM else 0.02

    @property
    def is_convnet(self) -> bool:
        return not self.arch.startswith("mlp")

    @property
    def per_call(self) -> int:
        """The number of images that a run passes through its networks."""
        return self.num_models * (self.steps * self.batch_size or self.num_images)

    @cached_property
    def pixels(self) -> Tensor:
        """The images as bytes, uint8 [N, C, H, W]."""
        generator = torch.Generator().manual_seed(0)
        shape = (self.num_images, *self.input_shape)
        return torch.randint(0, 256, shape, dtype=torch.uint8, generator=generator).to(self.device)

    @cached_property
    def x(self) -> Tensor:
        """The images as numbers, [N, C, H, W]. As in the ops, the bytes are divided in float32 whatever the dtype."""
        return (self.pixels / 255.0).to(self.dtype)

    @cached_property
    def label(self) -> Tensor:
        """The labels, int64 [N]."""
        return (torch.arange(self.num_images) * 7919 % self.num_classes).to(self.device)

    @cached_property
    def member(self) -> Tensor:
        """Which models saw which images, bool [K, N]. Every image is IN for half of an even number of models."""
        generator = torch.Generator().manual_seed(1)
        order = torch.rand(self.num_models, self.num_images, generator=generator).argsort(0)
        return (order < self.num_models // 2).to(self.device)

    def blocks(self) -> Iterator[slice]:
        """Yields the images of each block."""
        for begin in range(0, self.num_images, self.block):
            yield slice(begin, begin + self.block)

    @cached_property
    def drawn(self) -> Tensor:
        """The images of each model's batches, int64 [K, steps, batch_size]. None repeats before all were drawn."""
        generator = torch.Generator().manual_seed(2)
        count = self.steps * self.batch_size
        rows = [torch.randperm(self.num_images, generator=generator) for _ in range(self.num_models)]
        repeated = torch.stack(rows).repeat(1, -(-count // self.num_images))[:, :count]
        return repeated.view(self.num_models, self.steps, self.batch_size).to(self.device)

    def batch(self, model: int, step: int) -> tuple[Tensor, Tensor]:
        """Returns one model's batch: images [B, C, H, W] and labels [B]."""
        chosen = self.drawn[model, step]
        return self.x[chosen], self.label[chosen]

    def batches(self, step: int) -> tuple[Tensor, Tensor]:
        """Returns all models' batches: images [K, B, C, H, W] and labels [K, B]."""
        chosen = self.drawn[:, step]
        return self.x[chosen], self.label[chosen]

    def flops(self) -> float:
        """Returns the necessary operations of a run.

        Training takes three times those of the forward pass: the pass itself and the gradients of activations and
        weights. The gradient of the images is not counted, because nobody needs it.
        """
        network, x = self.networks[0], self.x[:1]
        forward, first = forward_flops(network, x), first_layer_flops(network, x)
        return self.per_call * (3 * forward - first if self.steps else forward)
