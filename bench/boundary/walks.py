"""Times walks to the decision boundary: the native loops against torch, as published and as fast as possible.

    python -m bench.boundary.walks --data cifar10:DIR [--arch SPEC] [--images N] [--rounds R] [--json FILE]

A network is trained for a few epochs. Then N of its training images walk, with the settings of pydrift.ownership: MinGD
to ten classes in three norms, Blind Walk in six directions. The variants run on one thread and are timed by CPU time:

native     pydrift.ops.min_gd and blind_walk
torch      all walks at once in blocks of 256, channels last; a walk that has arrived leaves its block
published  as in the paper's code, with our steps: one class and norm (or direction) after the other, a batch of images
           each. Each step has two forward passes, of which one is not needed. A walk that has arrived leaves its batch
"""

import argparse
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from bench.common.harness import ratio, time_in_turns, write_result
from bench.common.options import script_parser
from pydrift.data import load_data
from pydrift.models.arch import build
from pydrift.models.classifier import freeze, logits_of
from pydrift.models.recipe import TrainingRecipe
from pydrift.ops import BlindWalkOptions, BoundaryWalks, MinGdOptions
from pydrift.ops.reference import blind_walk_through, min_gd_through
from pydrift.ownership import BlindWalk, MinGd
from pydrift.training import train_many

CPU = torch.device("cpu")


def arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="digits", help="train the network on this data set")
    parser.add_argument("--arch", help="train this architecture; the default is a convnet, and an MLP for digits")
    parser.add_argument("--images", type=int, default=32, help="let so many images walk")
    parser.add_argument("--rounds", type=int, default=5, help="time so many rounds")
    parser.add_argument("--quick", action="store_true", help="let 8 images walk, in 2 rounds")
    options = parser.parse_args()
    if options.quick:
        options.images, options.rounds = 8, 2
    return options


def main() -> None:
    options = arguments()
    images = load_data(options.data)
    arch = options.arch or ("mlp:1x8x8:64:10" if options.data == "digits" else "convnet:3x32x32:16,32,64:128:10")
    some = np.random.default_rng(0).permutation(len(images))[:5000]
    recipe = TrainingRecipe(epochs=10)
    (module,) = train_many([build(arch, 0)], images.x, images.y, [some], [recipe], [0], device=CPU)
    walked = images.subset(some[: options.images])
    rows = []
    for name, variants in (
        ("min_gd", min_gd(module, walked.x)),
        ("blind_walk", blind_walk(module, walked.x, walked.y)),
    ):
        walks = {variant: call() for variant, call in variants.items()}
        check(walks)
        samples = time_in_turns(variants, CPU, options.rounds, slice_s=0)
        steps = int((walks["native"].steps.long() + 1).sum())
        row: dict[str, Any] = {"walk": name, "arch": arch, "images": len(walked), "looks": steps}
        row |= {f"seconds_{variant}": sorted(values)[len(values) // 2] for variant, values in samples.items()}
        row |= {f"{variant}_over_native": ratio(samples, variant, "native") for variant in ("torch", "published")}
        rows.append(row)
        print(
            f"{name:11} {len(walked)} images, {steps:,} looks: native {row['seconds_native']:.2f} s; torch "
            f"{row['torch_over_native']:.1f}x, as published {row['published_over_native']:.1f}x as long"
        )
    write_result(options.json, CPU, rows=rows)


def check(walks: dict[str, BoundaryWalks]) -> None:
    """Stops where a variant walked differently. Only the same work may be compared."""
    native = walks["native"]
    for name, other in walks.items():
        same = (other.steps == native.steps) & (other.prediction == native.prediction)
        if same.double().mean() < 0.99:
            raise SystemExit(f"{name} differs from native in {int((~same).sum())} of {len(same)} walks")


def min_gd(module: nn.Module, x: Tensor) -> dict[str, Callable[[], BoundaryWalks]]:
    """Returns the variants of MinGD by name."""
    walk = MinGd()
    model = freeze(module, tuple(x.shape[1:]), CPU)  # type: ignore[arg-type]
    forward = logits_of(module, (x.shape[1], x.shape[2], x.shape[3]))
    grid = torch.cartesian_prod(torch.arange(len(x)), torch.arange(10), torch.arange(3)).int().T.contiguous()
    options = MinGdOptions(**vars(walk))

    def torch_variant() -> BoundaryWalks:
        return BoundaryWalks(*min_gd_through(forward, *grid, x=x, options=options))

    def published() -> BoundaryWalks:
        parts = BoundaryWalks(torch.empty(grid.shape[1]), *(torch.empty(grid.shape[1], dtype=torch.int32),) * 2)
        parts = BoundaryWalks(*(part.clone() for part in parts))
        for label in range(10):
            for norm in range(3):
                rows = ((grid[1] == label) & (grid[2] == norm)).nonzero()[:, 0]
                found = min_gd_through(twice(forward), *grid[:, rows], x=x, options=options)
                for part, values in zip(parts, found, strict=True):
                    part[rows] = values
        return parts

    return {"native": lambda: walk._walk(model, x, *grid), "torch": torch_variant, "published": published}


def blind_walk(module: nn.Module, x: Tensor, y: Tensor) -> dict[str, Callable[[], BoundaryWalks]]:
    """Returns the variants of Blind Walk by name."""
    walk = BlindWalk()
    shape: tuple[int, int, int] = tuple(x.shape[1:])  # type: ignore[assignment]
    model, directions = freeze(module, shape, CPU), walk.directions(shape)
    forward = logits_of(module, (x.shape[1], x.shape[2], x.shape[3]))
    image, direction = torch.cartesian_prod(torch.arange(len(x)), torch.arange(len(directions))).int().T.contiguous()
    label, norm = y.int()[image.long()], direction // walk.starts
    options = BlindWalkOptions(max_steps=walk.max_steps)

    def through(network: Callable[[Tensor], Tensor], rows: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        ids = (part[rows] for part in (image, direction, label, norm))
        return blind_walk_through(network, *ids, x=x, directions=directions, options=options)

    def published() -> BoundaryWalks:
        found = [through(twice(forward), (direction == d).nonzero()[:, 0]) for d in range(len(directions))]
        order = torch.cat([(direction == d).nonzero()[:, 0] for d in range(len(directions))])
        columns = [torch.cat(column) for column in zip(*found, strict=True)]
        return BoundaryWalks(*(column[order.argsort()] for column in columns))

    return {
        "native": lambda: walk._walk(model, x, image, direction, label),
        "torch": lambda: BoundaryWalks(*through(forward, torch.arange(len(image)))),
        "published": published,
    }


def twice(forward: Callable[[Tensor], Tensor]) -> Callable[[Tensor], Tensor]:
    """Adds a second forward pass without a gradient, as the published code has it."""

    def asked_again(x: Tensor) -> Tensor:
        with torch.no_grad():
            forward(x)
        return forward(x)

    return asked_again


if __name__ == "__main__":
    main()
