"""The user's own training, as shadows need it: fixed for one null, varied for the other."""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import Tensor, nn

from pydrift.core.errors import UsageError
from pydrift.models.normalization import Normalization, Normalized
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import function_identity

OwnTraining = Callable[..., nn.Module] | Sequence[Callable[..., nn.Module]]
"""(x, y, seed) -> nn.Module; or (x, y, seed, recipe) -> nn.Module, which then trains by the recipe as far as it can; or
several functions of one of these kinds. x float32 [N, C, H, W] in [0, 1], y int64 [N], seed int."""


class _Training:
    """One training of the user's, as (x, y, seed) -> nn.Module.

    Which of several functions trains a shadow, and by which recipe, follows from the shadow's seed.
    """

    def __init__(self, trainings: Sequence[Callable[..., nn.Module]], recipe: TrainingRecipe, varied: bool) -> None:
        self._trainings, self._recipe, self._varied = trainings, recipe, varied
        self._normalize: Normalization | None = None
        # What function_identity reads: the same for the same functions, in every process.
        identities = ", ".join(map(function_identity, trainings))
        takes = any(map(_takes_recipe, trainings))
        self.__qualname__ = f"{'varied ' * varied}{identities}{f' by {recipe.to_json()}' * takes}"

    def normalized(self, how: Normalization) -> _Training:
        """The same training of networks that take normalised images; it gets pixels in [0, 1] and normalises them."""
        other = copy.copy(self)
        other._normalize, other.__qualname__ = how, f"{self.__qualname__} normalised by {how}"
        return other

    def __call__(self, x: Tensor, y: Tensor, seed: int) -> nn.Module:
        """Trains one shadow."""
        train = self._trainings[seed % len(self._trainings) if self._varied else 0]
        more: dict[str, Any] = {}
        if _takes_recipe(train):
            more["recipe"] = self._recipe.varied(seed, len(x)) if self._varied else self._recipe
        trained = train(x, y, seed, **more)
        return trained if self._normalize is None else Normalized(trained, self._normalize)


def fixed_training(train: OwnTraining, recipe: TrainingRecipe) -> _Training:
    """The first of the user's functions, by the base's recipe."""
    return _Training(_as_list(train), recipe, varied=False)


def varied_training(train: OwnTraining, recipe: TrainingRecipe) -> _Training | None:
    """All of the user's functions, by recipes that vary. None where there is one function that takes no recipe."""
    trainings = _as_list(train)
    if len(trainings) < 2 and not _takes_recipe(trainings[0]):
        return None
    return _Training(trainings, recipe, varied=True)


def _as_list(train: OwnTraining) -> list[Callable[..., nn.Module]]:
    trainings = [train] if callable(train) else list(train)
    if not trainings or not all(map(callable, trainings)):
        raise UsageError("train must be a function (x, y, seed) -> nn.Module, or several of them")
    return trainings


def _takes_recipe(train: Callable[..., nn.Module]) -> bool:
    try:
        return "recipe" in inspect.signature(train).parameters
    except (TypeError, ValueError):  # a callable of another language
        return False
