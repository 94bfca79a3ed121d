"""Says who has which images in the ownership benchmark, and how its models are made."""

from dataclasses import dataclass
from functools import cache, cached_property

import numpy as np
from numpy.typing import NDArray

from bench.ownership.data_free import DataFree
from pydrift.core.errors import UsageError
from pydrift.data import LabelledImages, load_data
from pydrift.models.recipe import TrainingRecipe

Indices = NDArray[np.int64]


@dataclass(frozen=True)
class Setting:
    """How the models of one data set are made.

    arch          of the victim and most suspects
    others        architectures of those who choose another one
    student       architecture of distillation, about half as wide
    radius        of adversarial training in the maximum norm
    attack_steps  of projected gradient descent (PGD) in adversarial training
    """

    arch: str
    others: tuple[str, ...]
    student: str
    recipe: TrainingRecipe
    radius: float
    attack_steps: int
    data_free: DataFree


SETTINGS = {
    "cifar10": Setting(
        "convnet:3x32x32:16,32,64:128:10",
        ("convnet:3x32x32:24,48:96:10", "convnet:3x32x32:12,24,48,96:64:10", "convnet:3x32x32:32,32,32:64:10"),
        "convnet:3x32x32:8,16,32:64:10",
        TrainingRecipe(15, 64, 2e-3),
        radius=8 / 255,
        attack_steps=3,
        data_free=DataFree(rounds=1200),
    ),
    "digits": Setting(
        "mlp:1x8x8:64:10",
        ("mlp:1x8x8:96:10", "mlp:1x8x8:48-32:10", "convnet:1x8x8:8,16:32:10"),
        "mlp:1x8x8:32:10",
        TrainingRecipe(epochs=200),
        radius=0.1,
        attack_steps=3,
        data_free=DataFree(rounds=100, student_rate=5e-3, width=8),
    ),
}


@dataclass(frozen=True)
class World:
    """Who has which images, for one victim.

    source  a data spec whose train split is dealt out. SETTINGS has the part before the colon
    seed    of the victim. Worlds of all seeds share the public and the independent images, and with them the benign
            models. Each deals the rest anew

    All parts are indices int64 of images, and no two share an image:

    public            44 %, which everybody knows
    independent_pool  18 %; independent suspects are trained on draws from it
    private           12 %, which the victim is trained on
    surrogate         26 %, for thieves who do not have the private images
    """

    source: str
    seed: int

    @property
    def setting(self) -> Setting:
        """How models of this data set are made. UsageError where SETTINGS has none."""
        name = self.source.partition(":")[0]
        if name not in SETTINGS:
            raise UsageError(f"no suspects are made for {self.source!r}, only for {', '.join(SETTINGS)}")
        return SETTINGS[name]

    @property
    def images(self) -> LabelledImages:
        return _images(self.source)

    @property
    def public(self) -> Indices:
        return self._shared[0]

    @property
    def independent_pool(self) -> Indices:
        return self._shared[1]

    @property
    def private(self) -> Indices:
        return self._own[: self.size]

    @property
    def surrogate(self) -> Indices:
        return self._own[self.size :]

    @property
    def size(self) -> int:
        """The number of images that a model is trained on, other than a thief's: 12 % of all."""
        return round(0.12 * len(self.images))

    @cached_property
    def _shared(self) -> list[Indices]:
        order = np.random.default_rng(0).permutation(len(self.images))
        return np.split(order, [round(part * len(order)) for part in (0.44, 0.62)])

    @cached_property
    def _own(self) -> Indices:
        return np.random.default_rng(100 + self.seed).permutation(self._shared[2])

    def draw(self, pool: Indices, index: int) -> Indices:
        """Draws `size` images from a pool, for the model of that index."""
        return np.random.default_rng((index, len(pool))).permutation(pool)[: self.size]


@cache
def _images(source: str) -> LabelledImages:
    return load_data(source)
