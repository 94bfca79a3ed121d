"""Steals a model without any image, by adversarial distillation with a generator.

The method follows Fang et al., "Data-Free Adversarial Distillation" (arXiv:1912.11006), and Micaelli and Storkey,
"Zero-shot Knowledge Transfer via Adversarial Belief Matching" (NeurIPS 2019). A generator learns to make images on
which student and teacher differ, and the student learns to agree on them. Minutes on one core are little for that.
Small batches, and images that are always smooth, helped most in so short a time.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from pydrift.training import seeded

_LATENT = 64


@dataclass(frozen=True)
class DataFree:
    """How generator and student are trained.

    rounds  of one step of the generator and `steps` of the student, each on a new batch
    width   channels of the generator before its last convolution
    """

    rounds: int = 2000
    steps: int = 10
    batch_size: int = 32
    student_rate: float = 2e-3
    generator_rate: float = 1e-3
    width: int = 32


def extract_model(
    teacher: nn.Module, student: nn.Module, input_shape: tuple[int, int, int], settings: DataFree, seed: int
) -> nn.Module:
    """Trains `student` in place to compute what `teacher` computes, without data. Returns it in evaluation mode."""
    random = torch.Generator().manual_seed(seed)
    with seeded(seed):
        generator = _generator(input_shape, settings.width)
    for module in (generator, student):
        module.train().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    of_generator = torch.optim.Adam(generator.parameters(), betas=(0.5, 0.999))
    of_student = torch.optim.Adam(student.parameters())

    def images() -> Tensor:
        return generator(torch.randn(settings.batch_size, _LATENT, generator=random))

    for turn in range(settings.rounds):
        left = 0.5 * (1 + math.cos(math.pi * turn / settings.rounds))
        of_generator.param_groups[0]["lr"] = settings.generator_rate * left
        of_student.param_groups[0]["lr"] = settings.student_rate * left
        x = images()
        of_generator.zero_grad()
        (-_difference(teacher(x), student(x)).log()).backward()  # the logarithm pulls as hard however close they are
        of_generator.step()
        for _ in range(settings.steps):
            with torch.no_grad():
                x = images()
                target = teacher(x)
            of_student.zero_grad()
            _difference(target, student(x)).backward()
            of_student.step()
    return student.eval()


def _difference(a: Tensor, b: Tensor) -> Tensor:
    """Returns the mean absolute difference of logits [N, K].

    A constant for each image is taken out, because it does not change the probabilities.
    """
    difference = a - b
    return (difference - difference.mean(1, keepdim=True)).abs().mean()


class _Contrast(nn.Module):
    """Maps values of mean 0 and deviation 1 to [0, 1]."""

    def forward(self, x: Tensor) -> Tensor:
        return torch.sigmoid(1.5 * x)


def _generator(input_shape: tuple[int, int, int], width: int) -> nn.Module:
    """Returns a network from noise [N, 64] to images [N, C, H, W] in [0, 1].

    The channels have a fixed mean and contrast over a batch. Images of 16x16 pixels are made and resized bilinearly. So
    larger images are smooth, as natural ones are, and need no convolution at full size.
    """
    channels, *size = input_shape
    return nn.Sequential(
        nn.Linear(_LATENT, 4 * width * 4 * 4, bias=False),
        nn.BatchNorm1d(4 * width * 4 * 4),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (4 * width, 4, 4)),
        *_doubled(4 * width, 2 * width),
        *_doubled(2 * width, width),
        nn.Conv2d(width, channels, 3, padding=1, bias=False),
        nn.Upsample((size[0], size[1]), mode="bilinear"),
        nn.BatchNorm2d(channels, affine=False),
        _Contrast(),
    )


def _doubled(c_in: int, c_out: int) -> tuple[nn.Module, ...]:
    """Returns layers that double height and width."""
    convolution = nn.Conv2d(c_in, c_out, 3, padding=1, bias=False)
    return nn.Upsample(scale_factor=2), convolution, nn.BatchNorm2d(c_out), nn.LeakyReLU(0.2)
