"""What models take images for, against sums by hand, and that no figure depends on what else is asked."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift.drift.probes import OCCLUSION_COLOURS, occlude
from pydrift.drift.recognition import class_bias, occlusion_sensitivity, recognise
from pydrift.models.classifier import Classifier, freeze

SHAPE = (1, 3, 3)
CPU = torch.device("cpu")


def classifier(seed):
    torch.manual_seed(seed)
    return freeze(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), SHAPE, CPU)


def gray(*counts):
    return torch.rand(*counts, *SHAPE, generator=torch.Generator().manual_seed(0))


def compressed(x):
    """By another formula: the solution y of x = 2 sinh(y / 2)."""
    return 2 * np.sign(x) * np.log(np.abs(x) / 2 + np.sqrt((x / 2) ** 2 + 1))


def log_p(observer, x):
    logits = observer.logits(x).numpy().astype(np.longdouble)
    return np.log(np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True))


def close(got, expected):
    np.testing.assert_allclose(got, np.asarray(expected, float), rtol=1e-12, atol=1e-12)


def test_recognition_is_observers_by_sources_by_classes():
    observers, images, told = [classifier(s) for s in range(3)], gray(2, 4, 5), []
    got = recognise(observers, images, lambda: told.append(1))
    assert got.odds.shape == (3, 2, 4, 4)
    assert got.confidence.shape == (3, 2, 4)
    assert got.odds.dtype == got.confidence.dtype == np.float64
    assert len(told) == 3  # once per observer
    assert (got.odds[..., range(4), range(4)] == 0).all()
    for o, observer in enumerate(observers):
        for s, c in np.ndindex(2, 4):
            said = log_p(observer, images[s, c])
            close(got.odds[o, s, c], compressed(said[:, [c]] - said).mean(axis=0))
            assert got.confidence[o, s, c] == pytest.approx(float(np.exp(said[:, c]).mean()), rel=1e-12)


def test_recognition_of_images_that_were_made_of_some_classes():
    observer, images = classifier(0), gray(1, 2, 5)
    got = recognise([observer], images, made_of=[3, 1])
    for i, c in enumerate((3, 1)):
        said = log_p(observer, images[0, i])
        close(got.odds[0, 0, i], compressed(said[:, [c]] - said).mean(axis=0))
        assert got.confidence[0, 0, i] == pytest.approx(float(np.exp(said[:, c]).mean()), rel=1e-12)


def test_odds_stay_exact_where_p_rounds():
    sharp = Classifier(lambda x: torch.tensor([[500.0, 0.0, -1e4]]).repeat(len(x), 1), SHAPE, 3, CPU, "")
    got = recognise([sharp], torch.zeros(1, 3, 2, *SHAPE))
    close(got.odds[0, 0], compressed(np.array([[0, 500, 10500], [-500, 0, 10000], [-10500, -10000, 0.0]])))
    assert got.confidence[0, 0].tolist() == pytest.approx([1, 0, 0], abs=1e-200)


def test_doubt_is_told_as_it_is_and_sureness_by_its_order():
    def said(log_odds):
        model = Classifier(lambda x: torch.tensor([[log_odds, 0.0]]).repeat(len(x), 1), SHAPE, 2, CPU, "")
        return recognise([model], torch.zeros(1, 2, 1, *SHAPE)).odds[0, 0, 0, 1]

    assert said(0.01) == pytest.approx(0.01, rel=1e-5)
    assert said(400.0) - said(200.0) == pytest.approx(2 * np.log(2), rel=1e-4)


def test_what_marks_change_by_hand():
    observers, images, told = [classifier(s) for s in range(2)], gray(3, 4), []
    got = occlusion_sensitivity(observers, images, lambda: told.append(1))
    assert list(got) == list(OCCLUSION_COLOURS)
    assert len(told) == 2
    for colour, value in OCCLUSION_COLOURS.items():
        assert got[colour].shape == (2, 3, 3, 3, 4)
        for o, observer in enumerate(observers):
            for s, place in np.ndindex(3, 9):
                spoilt = images[s].clone()
                spoilt.flatten(1)[:, place] = value  # on 3x3 a mark is a pixel

                def against_all(x, observer=observer):
                    said = log_p(observer, x)
                    return compressed(said - said.mean(axis=1, keepdims=True))

                change = against_all(spoilt) - against_all(images[s])
                expected = [np.mean([change[shown, c] for shown in range(4) if shown != c]) for c in range(4)]
                close(got[colour][o, s].reshape(9, 4)[place], expected)


def test_leanings_by_hand():
    observers, images, told = [classifier(s) for s in range(2)], gray(3, 6), []
    got = class_bias(observers, images, lambda: told.append(1))
    assert got.shape == (2, 3, 4)
    assert len(told) == 2
    for o, observer in enumerate(observers):
        for kind in range(3):
            said = log_p(observer, images[kind])
            close(got[o, kind], compressed(said - said.mean(axis=1, keepdims=True)).mean(axis=0))


def test_answers_do_not_depend_on_who_else_is_asked():
    observers, images = [classifier(s) for s in range(3)], gray(3, 4, 5)
    together, alone = recognise(observers, images), recognise(observers[1:2], images[2:])
    assert np.array_equal(together.odds[1:2, 2:], alone.odds)
    assert np.array_equal(together.confidence[1:2, 2:], alone.confidence)
    moved, moved_alone = (
        occlusion_sensitivity(observers, images[:, :, 0]),
        occlusion_sensitivity(observers[1:2], images[2:, :, 0]),
    )
    assert all(np.array_equal(moved[colour][1:2, 2:], moved_alone[colour]) for colour in OCCLUSION_COLOURS)
    assert np.array_equal(class_bias(observers, images[0])[1:2, 2:], class_bias(observers[1:2], images[0, 2:]))


def test_torch_is_asked_about_each_source_alone():
    sizes = []

    def forward(x):
        sizes.append(len(x))
        return x.flatten(1)[:, :4]

    observer, twice = Classifier(forward, SHAPE, 4, CPU, "generic: a test"), gray(1, 4, 5).repeat(2, 1, 1, 1, 1, 1)
    got = recognise([observer], twice)
    assert sizes == [20, 20]
    assert np.array_equal(got.odds[:, 0], got.odds[:, 1])
    sizes.clear()
    moved = occlusion_sensitivity([observer], twice[:, :, 0])
    rows = len(list(occlude(twice[0, :, 0], "white occlusions")))
    assert sizes == [4, *[12] * rows * len(OCCLUSION_COLOURS)] * 2
    assert all(np.array_equal(values[:, 0], values[:, 1]) for values in moved.values())
