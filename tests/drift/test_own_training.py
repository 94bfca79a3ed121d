"""The user's own training as shadows call it: which function, with which recipe."""

import pytest
import torch
from torch import nn

from pydrift import UsageError
from pydrift.drift.own_training import fixed_training, varied_training
from pydrift.drift.settings import AuditSettings
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import function_identity

RECIPE = TrainingRecipe(epochs=10)
X, Y = torch.zeros(40, 1, 2, 2), torch.zeros(40, dtype=torch.int64)


def by_seed(x, y, seed):
    model = nn.Linear(1, 1)
    model.told = ("by seed", len(x), seed)
    return model


def also_by_seed(x, y, seed):
    model = nn.Linear(1, 1)
    model.told = ("also by seed", len(x), seed)
    return model


def by_recipe(x, y, seed, recipe):
    model = nn.Linear(1, 1)
    model.told = ("by recipe", recipe)
    return model


def by_recipe_of_a_default(x, y, seed, *, recipe=None):
    return by_recipe(x, y, seed, recipe)


def test_one_training_without_a_recipe_is_fixed_and_does_not_vary():
    assert fixed_training(by_seed, RECIPE)(X, Y, 7).told == ("by seed", 40, 7)
    assert varied_training(by_seed, RECIPE) is None
    assert varied_training([by_seed], RECIPE) is None


@pytest.mark.parametrize("train", [by_recipe, by_recipe_of_a_default, [by_recipe]])
def test_a_training_that_takes_a_recipe_gets_the_bases_or_a_varied_one(train):
    fixed, varied = fixed_training(train, RECIPE), varied_training(train, RECIPE)
    for seed in range(20):
        assert fixed(X, Y, seed).told == ("by recipe", RECIPE)
        assert varied(X, Y, seed).told == ("by recipe", RECIPE.varied(seed, len(X)))


def test_of_several_trainings_the_first_is_the_bases_and_the_seed_chooses():
    several = [by_seed, also_by_seed, by_recipe]
    fixed, varied = fixed_training(several, RECIPE), varied_training(several, RECIPE)
    assert {fixed(X, Y, seed).told[0] for seed in range(9)} == {"by seed"}
    assert [varied(X, Y, seed).told[0] for seed in range(4)] == ["by seed", "also by seed", "by recipe", "by seed"]
    assert varied(X, Y, 5).told == ("by recipe", RECIPE.varied(5, len(X)))


@pytest.mark.parametrize("train", [[], [by_seed, 3], 3, None])
def test_what_is_no_training_is_refused(train):
    with pytest.raises((UsageError, TypeError)):
        fixed_training(train, RECIPE)


def test_the_identity_is_that_of_the_functions_the_recipe_and_whether_it_varies():
    trainings = [
        fixed_training(by_seed, RECIPE),
        fixed_training([by_seed, also_by_seed], RECIPE),
        varied_training([by_seed, also_by_seed], RECIPE),
        varied_training([also_by_seed, by_seed], RECIPE),
        fixed_training(by_recipe, RECIPE),
        varied_training(by_recipe, RECIPE),
        varied_training(by_recipe, TrainingRecipe(epochs=11)),
    ]
    identities = [function_identity(training) for training in trainings]
    assert len(set(identities)) == len(identities)
    assert function_identity(varied_training(by_recipe, RECIPE)) == identities[5]
    other_recipe = fixed_training(by_seed, TrainingRecipe(epochs=11))  # which it never sees
    assert function_identity(other_recipe) == identities[0]


@pytest.mark.parametrize(
    ("train", "recipes", "kinds"),
    [
        (None, "both", ("same", "varied")),
        (None, "same", ("same",)),
        (None, "varied", ("varied",)),
        (by_seed, "both", ("same",)),
        (by_seed, "same", ("same",)),
        (by_recipe, "both", ("same", "varied")),
        ([by_seed, also_by_seed], "both", ("same", "varied")),
        ([by_seed, also_by_seed], "varied", ("varied",)),
    ],
)
def test_the_kinds_of_shadows_that_are_made(train, recipes, kinds):
    assert AuditSettings(train=train, recipes=recipes).kinds == kinds
