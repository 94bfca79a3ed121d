"""Trains one built-in model on a draw of images and saves it, for `pydrift train`, the demo and the benchmarks."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from pydrift.core.errors import UsageError
from pydrift.core.noise import Phase, derived_seed
from pydrift.core.parallel import one_intra_op_thread
from pydrift.data import LabelledImages, plant
from pydrift.models.arch import build, parse
from pydrift.models.file import LoadedModel, save_model
from pydrift.models.intake import RECIPE_KEY, TRAIN_SIZE_KEY
from pydrift.models.recipe import TrainingRecipe
from pydrift.training import train_many


@dataclass(frozen=True)
class TrainedModel:
    """A trained model, and what its file records about it.

    images  the images that it was trained on, with any planted drift
    drawn   int64, ascending: the indices of the drawn images in the data
    """

    module: nn.Module
    arch: str
    recipe: TrainingRecipe
    images: LabelledImages
    drawn: NDArray[np.int64]

    def save(self, path: str | Path) -> None:
        """Writes one safetensors file with weights, architecture, recipe and number of training images."""
        metadata = {RECIPE_KEY: self.recipe.to_json(), TRAIN_SIZE_KEY: str(len(self.images))}
        save_model(path, self.module, self.arch, metadata)


def train_model(
    arch: str,
    data: LabelledImages,
    *,
    size: int | None = None,
    seed: int = 0,
    recipe: TrainingRecipe | None = None,
    init: LoadedModel | None = None,
    drift: str | None = None,
) -> TrainedModel:
    """Trains a built-in architecture on one thread: the same bits for the same arguments, machine and torch.

    arch    a built-in spec such as "mlp:1x28x28:256:10"
    data    images of the shape and classes of the spec
    size    how many images to draw without replacement, in 2..N; default: all
    seed    of the draw, the initial weights, the order of the images and the planted drift
    recipe  default: the recipe recorded in `init`, else TrainingRecipe()
    init    a model of the same architecture to continue from, by `recipe.continued`
    drift   a drift to plant into the drawn images (see pydrift.data.plant)

    UsageError names the arguments that do not fit together; PydriftError if training diverges.
    """
    spec = parse(arch)
    if spec.input_shape != data.input_shape or spec.num_classes != data.num_classes:
        shape = "x".join(map(str, data.input_shape))
        raise UsageError(f"{spec} does not fit {data.source}: images of {shape} in {data.num_classes} classes")
    if init is not None and parse(init.arch) != spec:
        raise UsageError(f"init: {spec} cannot continue the training of a {init.arch}")
    if size is not None and not 2 <= size <= len(data):
        raise UsageError(f"size must be in 2..{len(data)}, got {size}")
    indices = _draw_indices(len(data), size or len(data), seed)
    images = data.subset(torch.from_numpy(indices))
    if drift is not None:
        images = plant(images, drift, seed)
    if recipe is None:
        recorded = None if init is None else init.metadata.get(RECIPE_KEY)
        recipe = TrainingRecipe() if recorded is None else TrainingRecipe.from_json(recorded)
    start = build(spec, seed) if init is None else copy.deepcopy(init.module).requires_grad_(True)
    how = recipe if init is None else recipe.continued(len(images))
    every = np.arange(len(images))
    with one_intra_op_thread():
        (module,) = train_many(
            [start], images.x, images.y, [every], [how], [seed], device=torch.device("cpu"), built_in=True
        )
    return TrainedModel(module, str(spec), recipe, images, indices)


def _draw_indices(images: int, size: int, seed: int) -> NDArray[np.int64]:
    random = np.random.Generator(np.random.Philox(derived_seed(seed, Phase.TRAIN_DRAW)))
    return np.sort(random.permutation(images)[:size])
