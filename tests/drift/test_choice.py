"""Which shadows judge a candidate, over all that may be known of its recipe."""

from dataclasses import replace

import pytest

from pydrift.drift.choice import SAME, VARIED, Choice, choose_null
from pydrift.models.recipe import TrainingRecipe

BASE, IMAGES = TrainingRecipe(epochs=20), 1000
IN_RANGE, OUTSIDE = replace(BASE, epochs=25, batch_size=32), replace(BASE, epochs=80, optimizer="sgd", batch_size=32)
BOTH = [SAME, VARIED]
UNSTATED = (
    "the candidate's recipe is not known, and the shadows were all trained by one: a changed recipe can read as drift "
    "(state it: recipe=, --recipe)"
)
DIFFERS = (
    "the recipe is outside what was calibrated: the candidate's differs from the base's (epochs, batch_size), by which "
    "all shadows were trained; calibrate by varied recipes, or by the candidate's"
)
TOO_FAR = (
    "the recipe is outside what was calibrated: the candidate's departs too far from the base's (epochs, optimizer); "
    "calibrate by the candidate's recipe"
)


@pytest.mark.parametrize(
    ("kinds", "candidate", "expected"),
    [
        (BOTH, None, Choice(VARIED, known=False)),
        ([VARIED], None, Choice(VARIED, known=False)),
        ([SAME], None, Choice(SAME, known=False, note=UNSTATED)),
        (BOTH, SAME, Choice(SAME, known=True)),
        ([SAME], SAME, Choice(SAME, known=True)),
        ([VARIED], SAME, Choice(VARIED, known=True)),
        (BOTH, BASE, Choice(SAME, known=True)),
        ([SAME], BASE, Choice(SAME, known=True)),
        ([VARIED], BASE, Choice(VARIED, known=True)),
        (BOTH, IN_RANGE, Choice(VARIED, known=True)),
        ([VARIED], IN_RANGE, Choice(VARIED, known=True)),
        ([SAME], IN_RANGE, Choice(SAME, known=False, problem=DIFFERS)),
        (BOTH, OUTSIDE, Choice(VARIED, known=False, problem=TOO_FAR)),
        ([VARIED], OUTSIDE, Choice(VARIED, known=False, problem=TOO_FAR)),
        (
            [SAME],
            OUTSIDE,
            Choice(SAME, known=False, problem=DIFFERS.replace("batch_size", "batch_size, optimizer")),
        ),
    ],
)
@pytest.mark.parametrize("order", [1, -1])
def test_a_base_of_a_known_recipe(kinds, candidate, expected, order):
    assert choose_null(kinds[::order], BASE, IMAGES, candidate) == expected


@pytest.mark.parametrize(
    ("kinds", "candidate", "expected"),
    [
        # By the user's own training, of which no recipe is known. So a candidate's says nothing.
        (BOTH, None, Choice(VARIED, known=False)),
        (BOTH, BASE, Choice(VARIED, known=False)),
        ([VARIED], BASE, Choice(VARIED, known=False)),
        ([SAME], None, Choice(SAME, known=False, note=UNSTATED)),
        ([SAME], BASE, Choice(SAME, known=False, note=UNSTATED)),
        (BOTH, SAME, Choice(SAME, known=True)),
        ([SAME], SAME, Choice(SAME, known=True)),
        ([VARIED], SAME, Choice(VARIED, known=True)),
    ],
)
def test_the_users_own_training(kinds, candidate, expected):
    assert choose_null(kinds, None, IMAGES, candidate) == expected


def test_epochs_that_are_not_set_depend_on_the_number_of_images():
    default = TrainingRecipe()
    named = replace(default, epochs=default.epochs_for(1000))
    assert choose_null(BOTH, default, 1000, named) == Choice(SAME, known=True)
    assert choose_null(BOTH, default, 100, named).problem is not None
