"""Calls every op with odd shapes and few restarts, so that a sanitizer can follow it in seconds.

python -m bench.common.odd_shapes [cpu|cuda]
"""

import sys

import numpy as np
import torch

from pydrift import TrainingRecipe
from pydrift.models.arch import build, lower
from pydrift.ops import (
    AscentOptions,
    BlindWalkOptions,
    MinGdOptions,
    blind_walk,
    invert,
    min_gd,
    shadow_moments,
    shadow_statistics,
)
from pydrift.training import native_program, train_many

ARCHITECTURES = ("mlp:1x9x7:33-17:5", "convnet:3x11x9:5,18:19:4")
ASCENT = AscentOptions(
    optimizer="adam",
    learning_rate=0.05,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    tv_weight=1e-3,
    l2_weight=1e-3,
    lower=0.0,
    upper=1.0,
    confidence_threshold=0.9,
    patience=2,
)
MIN_GD = MinGdOptions(max_steps=3, linf_step=0.02, l2_step=0.1, l1_step=0.1, l1_coordinates=7, l1_gap=0.01)
BLIND_WALK = BlindWalkOptions(max_steps=3)


def call_ops(arch: str, device: torch.device) -> None:
    """Calls every op for one architecture on a device. AssertionError where a result is not finite."""
    channels, height, width = map(int, arch.split(":")[1].split("x"))
    model = lower(build(arch, 0), (channels, height, width))
    program = model.program()
    x = torch.rand(37, channels, height, width).to(device)
    which, label, restart = (torch.randint(0, n, (37,), dtype=torch.int32).to(device) for n in (2, 4, 9))
    parameters = torch.stack([model.parameters()] * 2).to(device)
    invert(x, parameters, which, label, restart, program=program, seed=0, jitter=1, max_steps=3, options=ASCENT)
    _synchronize(device)
    assert x.isfinite().all()

    image = torch.arange(37, dtype=torch.int32).to(device)
    norm, directions = image % 3, 0.1 - x / 5
    walked = (
        min_gd(x, parameters, which, image, label, norm, program=program, options=MIN_GD),
        blind_walk(
            x, directions, parameters, which, image, image.flip(0), label, norm, program=program, options=BLIND_WALK
        ),
    )
    _synchronize(device)
    assert all(walk.distance.isfinite().all() for walk in walked)

    parameters = torch.stack([model.parameters()] * 5).to(device)
    statistics = shadow_statistics(x, parameters, label, program=program)
    moments = shadow_moments(x, parameters, label, torch.rand(5, 37).to(device) < 0.5, program=program)
    _synchronize(device)
    assert statistics.margin.isfinite().all()
    assert moments.m2.isfinite().all()

    starts, x = [build(arch, 0), build(arch, 1)], x.cpu()
    assert native_program(starts[0], x, device)
    drawn, recipe = [np.arange(37), np.arange(5)], TrainingRecipe(epochs=1, batch_size=33, augment="shift:1,flip")
    train_many(starts, x, label.cpu().long(), drawn, [recipe] * 2, [0, 1], device=device)


def _synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    chosen = torch.device(sys.argv[1] if len(sys.argv) > 1 else "cuda")
    for arch in ARCHITECTURES:
        call_ops(arch, chosen)
