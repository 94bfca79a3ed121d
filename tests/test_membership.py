"""Membership signals against their definition in float64, and how recognition is laid out."""

import numpy as np
import pytest
import torch
from torch import nn

from pydrift.classifier import Classifier, freeze
from pydrift.gray import GrayData
from pydrift.membership import SIGNALS, confidence, logit_margin, loss, recognise
from pydrift.membership import recognition as recognition_module

SHAPE = (1, 3, 3)


def reference(logits, labels):
    """float64 (margin, confidence, loss) from log p_y = z_y - logsumexp(z) and log(1 - p_y), each by its definition."""
    z = logits.astype(np.longdouble)
    z = z - z.max(axis=1, keepdims=True)
    rows = np.arange(len(z))
    weights = np.exp(z)
    own = z[rows, labels]
    others = np.array([np.logaddexp.reduce(np.delete(row, y)) for row, y in zip(z, labels, strict=True)])
    log_p = own - np.logaddexp.reduce(z, axis=1)
    return own - others, weights[rows, labels] / weights.sum(axis=1), -log_p


@pytest.mark.parametrize("scale", [0.01, 1, 30, 1e4])
@pytest.mark.parametrize("classes", [2, 10])
def test_signals_follow_their_definition(scale, classes):
    rng = np.random.default_rng(0)
    logits = (scale * rng.standard_normal((200, classes))).astype(np.float32)
    labels = rng.integers(0, classes, 200)
    tensors = torch.from_numpy(logits), torch.from_numpy(labels)
    tolerance = {"rtol": 2e-5, "atol": 2e-6 * max(1, scale)}
    for signal, expected in zip((logit_margin, confidence, loss), reference(logits, labels), strict=True):
        got = signal(*tensors)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected.astype(float), **tolerance)


@pytest.mark.parametrize(
    ("logits", "label", "margin", "p"),
    [
        ([500.0, 0.0, 0.0], 0, 500 - np.log(2), 1.0),  # p rounds to 1
        ([0.0, 500.0, 0.0], 0, -500.0, 0.0),  # p rounds to 0
        ([1e4, -1e4, 0.0], 1, -2e4, 0.0),
        ([-1e4, -1e4, -1e4], 2, -np.log(2), 1 / 3),  # a tie
        ([7.0, 7.0], 0, 0.0, 0.5),
        ([-torch.inf, 0.0, 1.0], 0, -np.inf, 0.0),
    ],
)
def test_margin_stays_exact_where_p_rounds(logits, label, margin, p):
    z, y = torch.tensor([logits]), torch.tensor([label])
    assert logit_margin(z, y).item() == pytest.approx(margin, rel=1e-6, abs=1e-6)
    assert confidence(z, y).item() == pytest.approx(p, abs=1e-6)


def test_signals_agree_with_each_other():
    generator = torch.Generator().manual_seed(1)
    z, y = torch.randn(100, 5, generator=generator, dtype=torch.float64) * 3, torch.arange(100) % 5
    p = confidence(z, y)
    torch.testing.assert_close(loss(z, y), -p.log())
    torch.testing.assert_close(logit_margin(z, y), p.log() - (1 - p).log())
    shifted = z + 100.0  # logits are defined up to a constant
    for signal in SIGNALS.values():
        torch.testing.assert_close(signal(shifted, y), signal(z, y))


def classifier(seed):
    torch.manual_seed(seed)
    return freeze(nn.Sequential(nn.Flatten(), nn.Linear(9, 4)), SHAPE, torch.device("cpu"))


def gray(seed, restarts=5):
    rng = np.random.default_rng(seed)
    images = rng.random((4, restarts, *SHAPE), np.float32)
    return GrayData(images, np.ones((4, restarts), np.float32), np.ones((4, restarts), np.int32))


def test_recognition_is_observers_by_sources_by_classes():
    observers, sources, told = [classifier(s) for s in range(3)], [gray(s) for s in range(2)], []
    got = recognise(observers, sources, lambda: told.append(1))
    assert got.mean.shape == got.std.shape == (3, 3, 2, 4)
    assert got.mean.dtype == np.float64
    assert len(told) == 3
    for o, observer in enumerate(observers):
        for s, source in enumerate(sources):
            for c in range(4):
                logits = observer.logits(torch.from_numpy(source.images[c]))
                for index, (name, signal) in enumerate(SIGNALS.items()):
                    values = signal(logits, torch.full((5,), c)).double().numpy()
                    assert got[name][o, s, c] == pytest.approx(values.mean(), rel=1e-5)
                    assert got.std[index, o, s, c] == pytest.approx(values.std(), rel=1e-4)


def test_recognition_does_not_depend_on_who_else_is_asked():
    observers, sources = [classifier(s) for s in range(3)], [gray(s) for s in range(3)]
    together, alone = recognise(observers, sources), recognise(observers[1:2], sources[2:])
    assert np.array_equal(together.mean[:, 1:2, 2:], alone.mean)
    assert np.array_equal(together.std[:, 1:2, 2:], alone.std)


def test_recognition_asks_in_fixed_batches(monkeypatch):
    sizes = []

    def forward(x):
        sizes.append(len(x))
        return x.flatten(1)[:, :4]

    observer = Classifier(forward, SHAPE, 4, torch.device("cpu"), "generic: a test")
    monkeypatch.setattr(recognition_module, "_BATCH", 8)
    source = gray(0)
    got = recognise([observer], [source, source])
    assert sizes == [8, 8, 4] * 2
    assert np.array_equal(got.mean[:, :, 0], got.mean[:, :, 1])
