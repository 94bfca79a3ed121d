"""Recipes compared: which fields differ, and which differ by more than a benign update's may."""

from dataclasses import replace

import pytest

from pydrift.models.recipe import TrainingRecipe

BASES = {
    "default": (TrainingRecipe(), 1000),
    "odd": (TrainingRecipe(epochs=1, batch_size=5, learning_rate=0.3, label_smoothing=0.9, optimizer="sgd"), 64),
    "augmented": (TrainingRecipe(epochs=7, batch_size=65, augment="shift:2,flip", schedule="one-cycle"), 50_000),
    "shifted far": (TrainingRecipe(epochs=3, batch_size=2, augment="shift:127", label_smoothing=0.98), 10),
}
AUGMENTED, IMAGES = TrainingRecipe(epochs=20, label_smoothing=0.1, augment="shift:2"), 1000


@pytest.mark.parametrize("name", BASES)
def test_every_varied_recipe_lies_inside(name):
    base, images = BASES[name]
    seen = set()
    for seed in range(300):
        varied = base.varied(seed, images)
        assert base.outside_varied(varied, images) == []
        seen.update(base.departures(varied, images))
    assert {"learning_rate", "label_smoothing"} <= seen
    assert seen <= {"epochs", "batch_size", "learning_rate", "label_smoothing", "augment"}


@pytest.mark.parametrize(
    ("field", "inside", "outside"),
    [
        ("epochs", [14, 26], [13, 27, 80]),
        ("learning_rate", [1e-3, 4e-3], [0.99e-3, 4.01e-3, 8e-3]),
        ("batch_size", [32, 128], [31, 129, 256]),
        ("label_smoothing", [0.15, 0.2], [0.09, 0.0, 0.21]),
        ("augment", ["shift:3", "shift:4"], ["", "shift:1", "shift:5", "shift:2,flip", "flip"]),
        ("weight_decay", [], [1e-4]),
        ("optimizer", [], ["sgd"]),
        ("momentum", [], [0.8]),
        ("schedule", [], ["one-cycle"]),
        ("precision", [], ["bfloat16"]),
    ],
)
def test_what_lies_just_outside_is_named(field, inside, outside):
    for value in (*inside, *outside):
        other = replace(AUGMENTED, **{field: value})
        assert AUGMENTED.departures(other, IMAGES) == [field]
        assert AUGMENTED.outside_varied(other, IMAGES) == ([field] if value in outside else [])


def test_several_are_named_in_the_order_of_the_fields():
    other = replace(AUGMENTED, schedule="one-cycle", epochs=80, batch_size=32)
    assert AUGMENTED.departures(other, IMAGES) == ["epochs", "batch_size", "schedule"]
    assert AUGMENTED.outside_varied(other, IMAGES) == ["epochs", "schedule"]


def test_as_many_epochs_by_default_as_by_name_are_no_departure():
    base = TrainingRecipe()
    named = replace(base, epochs=base.epochs_for(1000))
    assert base.departures(named, 1000) == named.departures(base, 1000) == []
    assert base.departures(named, 100) == ["epochs"]
    assert base.departures(base, 1000) == base.outside_varied(base, 1000) == []


def test_a_recipe_that_is_read_back_is_no_departure():
    for base, images in BASES.values():
        assert base.departures(TrainingRecipe.from_json(base.to_json()), images) == []
