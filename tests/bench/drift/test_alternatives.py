"""The drift suite's other methods see a swap, and nothing in nothing. Their p-values are uniform under the null."""

import numpy as np
import pytest
import torch
from scipy import stats
from scipy.spatial.distance import cdist
from torch import nn

from bench.drift import alternatives as suite
from pydrift.data import plant
from pydrift.models.file import load_model

RULES = {
    *("accuracy, current set", "accuracy of the base, current set", "accuracy, original set"),
    "BBSD of the models",
}
RULES_ON_DATA = {"BBSD of the data", "KS of features", "MMD of features"}
NO_RULE = {"disagreement", "weight distance", "CKA"}


@pytest.fixture(scope="module")
def models(digits):
    return {name: load_model(digits.path(name)).module for name in ("base", "benign", "swapped")}


@pytest.fixture(scope="module")
def alternatives(models, digits):
    return suite.Alternatives(models["base"], digits.holdout)


def test_the_same_model_twice(alternatives, models):
    found = alternatives.findings(models["base"])
    assert found.keys() == RULES | RULES_ON_DATA | NO_RULE
    for name in RULES | NO_RULE:
        assert found[name].score == pytest.approx(0, abs=1e-12)
        assert found[name].alarm is (False if name in RULES else None)
        assert found[name].first is None


def test_swapped_classes(alternatives, models):
    found = alternatives.findings(models["swapped"], "swap:3,8")
    for name in ("accuracy, original set", "accuracy of the base, current set", "disagreement", "BBSD of the models"):
        assert found[name].first in (3, 8)
        assert found[name].alarm is (None if name in NO_RULE else True)
    # Its own accuracy is as good as ever, and no pixel of the data has changed.
    assert not any(found[name].alarm for name in RULES_ON_DATA | {"accuracy, current set"})
    benign = alternatives.findings(models["benign"])
    for name in ("accuracy, original set", "disagreement", "BBSD of the models"):  # the features are as good as before
        assert found[name].score > benign[name].score


def test_images_that_changed(alternatives, models):
    found = alternatives.findings(models["benign"], "noise:0.5")
    accuracies = {"accuracy, current set", "accuracy of the base, current set"}
    assert all(found[name].alarm for name in RULES_ON_DATA | accuracies)
    assert found == alternatives.findings(models["benign"], "noise:0.5")
    assert found["MMD of features"] != alternatives.findings(models["benign"], "noise:0.5", seed=1)["MMD of features"]


@pytest.mark.parametrize("drift", ["remove:4", "remove:4,0.5", "darken:1,0.3", "expand:2,digits,7,0.5"])
def test_only_new_images_are_asked(alternatives, models, digits, drift):
    """What is remembered of the original images is what asking again gives."""
    x = plant(digits.holdout, drift, 0, "test").x
    known, asked = alternatives._recall(models["base"], alternatives._outputs, x), suite.outputs(models["base"], x)
    np.testing.assert_allclose(known.probabilities, asked.probabilities, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(known.features, asked.features, rtol=1e-4, atol=1e-5)
    assert alternatives.findings(models["benign"], drift).keys() == RULES | RULES_ON_DATA | NO_RULE


def test_outputs_are_the_input_of_the_last_layer_and_the_softmax():
    torch.manual_seed(0)
    module = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Flatten(), nn.Linear(36, 7), nn.ReLU(), nn.Linear(7, 3))
    x = torch.rand(300, 1, 5, 5)
    with torch.no_grad():
        features, logits = module[:4](x), module(x)
    got = suite.outputs(module, x)
    np.testing.assert_allclose(got.features, features, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(got.probabilities, logits.softmax(1), rtol=1e-5)


def test_accuracies_by_hand():
    def says(predictions):
        return suite.Outputs(np.zeros((len(predictions), 1), np.float32), np.eye(3)[predictions])

    labels = np.array([0] * 10 + [1] * 10 + [2] * 10)
    new = labels.copy()
    new[10:18] = 2  # 8 of class 1 are lost
    before, after = says(np.where(np.arange(30) == 0, 1, labels)), says(new)  # one of class 0 is won
    found = suite.accuracy_on_original(before, after, labels)
    assert (found.score, found.alarm, found.first) == (pytest.approx(7 / 3), True, 1)  # p = (1 + 9) / 2^9
    found = suite.accuracy_on_current(before, labels, after, labels)
    assert (found.score, found.first) == (pytest.approx(7 / 30), 1)
    assert found.alarm is True
    new[15:] = labels[15:]  # 5 of 30 are lost, none is won: p = 0.026, two-sided it were 0.052
    assert suite.accuracy_on_current(says(labels), labels, says(new), labels).alarm is True
    assert suite.accuracy_on_current(says(new), labels, says(labels), labels).alarm is False
    assert suite.disagreement(before, after, labels) == suite.Finding(9 / 30, None, 1)
    kept = labels != 0  # class 0 is gone from the current set, which is not a drop of its accuracy
    assert suite.accuracy_on_current(before, labels, says(labels[kept]), labels[kept]).first is None


def test_cka_ignores_rotation_and_scale_and_sees_noise():
    random = np.random.default_rng(0)
    x = random.standard_normal((500, 4)).astype(np.float32)
    turned = 3 * x @ np.linalg.qr(random.standard_normal((4, 4)))[0].astype(np.float32) + 1
    other = random.standard_normal((500, 4)).astype(np.float32)
    of = [suite.Outputs(f, np.full((500, 2), 0.5)) for f in (x, turned, other)]
    assert suite.cka(of[0], of[1]).score == pytest.approx(0, abs=1e-6)
    assert suite.cka(of[0], of[2]).score > 0.9


def test_mmd_is_close_to_that_of_the_kernel_itself():
    random = np.random.default_rng(0)
    for shift in (0.5, 1.0, 2.0):
        x, y = (random.standard_normal((400, 8)).astype(np.float32) + s for s in (0, np.float32(shift)))
        both = np.concatenate([x, y])
        squared = cdist(both, both, "sqeuclidean")
        kernel = np.exp(-squared / np.median(squared[np.triu_indices(800, 1)]))
        np.fill_diagonal(kernel, 0)
        exact = (kernel[:400, :400].sum() + kernel[400:, 400:].sum()) / (400 * 399) - 2 * kernel[:400, 400:].mean()
        statistic, p_value = suite.maximum_mean_discrepancy(x, y, random)
        assert statistic == pytest.approx(exact, rel=0.2)
        assert p_value == 1 / 200  # as small as it gets, and not 0


def test_p_values_are_uniform_under_the_null():
    random = np.random.default_rng(0)
    mmd, ks, alarms = [], [], 0
    for _ in range(100):
        x, y = (random.standard_normal((n, 10)).astype(np.float32) for n in (80, 40))
        mmd.append(suite.maximum_mean_discrepancy(x, y, random))
        ks.append(suite.kolmogorov_smirnov(x[:, :1], y[:, :1])[1][0])
        alarms += suite.ks_of_features(*(suite.Outputs(f, np.full((len(f), 2), 0.5)) for f in (x, y))).alarm
    statistic, p_value = zip(*mmd, strict=True)
    assert min(p_value) >= 1 / 200
    assert stats.kstest(p_value, "uniform").pvalue > 0.01
    assert stats.ttest_1samp(statistic, 0).pvalue > 0.01  # unbiased
    assert stats.kstest(ks, "uniform").pvalue > 0.01
    assert stats.binomtest(alarms, 100, 0.05, alternative="greater").pvalue > 0.01
