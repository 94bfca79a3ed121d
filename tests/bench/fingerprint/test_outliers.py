"""The adversarial images of the fingerprint benchmark are inside [0, 1] and of another class."""

import pytest
import torch

from bench.fingerprint import outliers as bench
from pydrift.models.file import load_model


@pytest.fixture(scope="module")
def attacked(digits):
    """The model's logits, the test images that it gets right, and their labels."""
    logits = bench.in_blocks(load_model(digits.path("base")).module)
    with torch.no_grad():
        right = logits(digits.holdout.x).argmax(dim=1) == digits.holdout.y
    return logits, digits.holdout.x[right], digits.holdout.y[right]


def changed(logits, x, y):
    with torch.no_grad():
        return float((logits(x).argmax(dim=1) != y).double().mean())


def test_fgsm(attacked):
    logits, x, y = attacked
    found = bench.fgsm(logits, x, y, 0.1)
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert (found - x).abs().max() <= 0.1 + 1e-6
    assert changed(logits, found, y) > changed(logits, bench.fgsm(logits, x, y, 0.01), y)


def test_deepfool_changes_every_class(attacked):
    logits, x, y = attacked
    found = bench.deepfool(logits, x)
    assert found.shape == x.shape
    assert found.min() >= 0
    assert found.max() <= 1
    assert changed(logits, found, y) == 1
    assert (found - x).flatten(1).norm(dim=1).mean() < (bench.fgsm(logits, x, y, 0.5) - x).flatten(1).norm(dim=1).mean()


def test_success_is_counted_over_the_returned_images(attacked):
    logits, x, y = attacked
    sets = list(bench.adversarial_sets(logits, x, y))
    assert [each.name for each in sets] == ["FGSM 0.03", "FGSM 0.1", "DeepFool"]
    for each in sets:
        assert each.success == changed(logits, each.x, y[: len(each.x)])
    assert sets[-1].success == 1
