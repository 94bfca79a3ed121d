"""The baselines against values computed by hand."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift.data import LabelledImages
from pydrift.drift.baselines import mcnemar, measure_baselines, relative_weight_change
from pydrift.drift.result import Baselines
from pydrift.models.classifier import Classifier


@pytest.mark.parametrize(
    ("only_first", "only_second", "expected"),
    [
        (0, 0, 1.0),
        (3, 3, 1.0),
        (1, 0, 1.0),
        (0, 5, 2 / 32),
        (1, 5, 2 * (1 + 6) / 64),
        (5, 1, 2 * (1 + 6) / 64),
        (2, 8, 2 * (1 + 10 + 45) / 1024),
    ],
)
def test_mcnemar(only_first, only_second, expected):
    assert mcnemar(only_first, only_second) == pytest.approx(expected, rel=1e-12)


def test_mcnemar_is_never_zero():
    assert mcnemar(0, 100_000) == np.finfo(float).tiny


def linear(*weights, bias=0.0):
    module = nn.Linear(len(weights), 1)
    with torch.no_grad():
        module.weight.copy_(torch.tensor([weights]))
        module.bias.fill_(bias)
    return module


def test_relative_weight_change():
    assert relative_weight_change(linear(3.0, 4.0), linear(3.0, 4.0)) == 0
    assert relative_weight_change(linear(3.0, 4.0), linear(3.0, 5.0)) == pytest.approx(1 / 5)
    assert relative_weight_change(linear(1.0, 2.0, bias=2.0), linear(1.0, 2.0, bias=8.0)) == pytest.approx(6 / 3)


@pytest.mark.parametrize(
    ("base", "new"),
    [
        (nn.Linear(2, 1), nn.Linear(3, 1)),
        (nn.Linear(2, 1), nn.Linear(2, 1, bias=False)),
        (nn.Linear(2, 1), nn.Sequential(nn.Linear(2, 1))),
        (linear(0.0), linear(1.0)),  # no size to be relative to
    ],
)
def test_weight_changes_that_mean_nothing_are_none(base, new):
    assert relative_weight_change(base, new) is None


def says(answers):
    """A classifier that answers image n, told by its first pixel, with class answers[n]."""
    table = torch.eye(3)[torch.tensor(answers)]
    return Classifier(lambda x: table[x[:, 0, 0, 0].long()], (1, 1, 1), 3, torch.device("cpu"), "generic: a test")


def test_baselines_on_data():
    data = LabelledImages(torch.arange(8.0).view(8, 1, 1, 1), torch.tensor([0, 0, 0, 1, 1, 1, 2, 2]), tuple("abc"), "S")
    base, new = says([0, 0, 0, 1, 1, 0, 1, 0]), says([0, 0, 1, 2, 0, 0, 2, 1])  # right: 5 and 3, alone 3 and 1
    got = measure_baselines(base, new, linear(3.0, 4.0), linear(3.0, 5.0), data)
    assert (got.accuracy_base, got.accuracy_candidate) == (5 / 8, 3 / 8)
    assert got.accuracy_p_value == pytest.approx(2 * (1 + 4) / 16)
    assert got.disagreement == 5 / 8
    assert got.relative_weight_change == pytest.approx(0.2)
    assert (got.images, got.data) == (8, "S")


def test_baselines_without_data():
    got = measure_baselines(says([0]), says([1]), linear(3.0, 4.0), linear(3.0, 5.0), None)
    assert got == Baselines(relative_weight_change=pytest.approx(0.2))
