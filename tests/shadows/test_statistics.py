"""Signals against their definition in float64, and what is measured of models."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

from pydrift import InputRefused, UsageError
from pydrift.models.arch import lower
from pydrift.models.classifier import Classifier, freeze
from pydrift.shadows import statistics as statistics_module
from pydrift.shadows.statistics import check_finite, check_varied, measure, view
from tests.signals import SIGNALS, confidence, logit_margin, loss

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
    for signal, expected in zip((logit_margin, confidence, loss), reference(logits, labels), strict=True):
        got = signal(*tensors)
        assert got.dtype == torch.float32
        np.testing.assert_allclose(got.numpy(), expected.astype(float), rtol=1e-6, atol=1e-37)  # p: least float32


@pytest.mark.parametrize(
    ("logits", "label", "margin", "p"),
    [
        ([500.0, 0.0, 0.0], 0, 500 - np.log(2), 1.0),  # p rounds to 1
        ([0.0, 500.0, 0.0], 0, -500.0, 0.0),  # p rounds to 0
        ([1e4, -1e4, 0.0], 1, -2e4, 0.0),
        ([-1e4, -1e4, -1e4], 2, -np.log(2), 1 / 3),  # a tie
        ([7.0, 7.0], 0, 0.0, 0.5),
        ([-torch.inf, 0.0, 1.0], 0, np.nan, np.nan),  # no finite logits, no statistics
        ([0.0, torch.inf, 1.0], 0, np.nan, np.nan),
    ],
)
def test_margin_stays_exact_where_p_rounds(logits, label, margin, p):
    z, y = torch.tensor([logits]), torch.tensor([label])
    assert logit_margin(z, y).item() == pytest.approx(margin, rel=1e-6, nan_ok=True)
    assert confidence(z, y).item() == pytest.approx(p, rel=1e-6, nan_ok=True)


def test_signals_agree_with_each_other():
    generator = torch.Generator().manual_seed(1)
    z, y = torch.randn(100, 5, generator=generator, dtype=torch.float64) * 3, torch.arange(100) % 5
    p = confidence(z, y)
    torch.testing.assert_close(loss(z, y), -p.log())
    torch.testing.assert_close(logit_margin(z, y), p.log() - (1 - p).log())
    shifted = z + 100.0  # logits are defined up to a constant
    for signal in SIGNALS.values():
        torch.testing.assert_close(signal(shifted, y), signal(z, y))


def network(seed):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Flatten(), nn.Linear(9, 4))


def classifier(seed):
    return freeze(network(seed), SHAPE, torch.device("cpu"))


def images(count=7):
    return torch.rand(count, *SHAPE, generator=torch.Generator().manual_seed(3)), torch.arange(count) % 4


def test_statistics_are_models_by_queries_by_images():
    (x, y), models, calls = images(), [classifier(s) for s in range(3)], []
    got = measure(models, x, y, queries=("plain", "flip"), posterior=True, advance=lambda: calls.append(1))
    assert len(calls) == 6  # models times queries
    assert got.margin.shape == got.loss.shape == got.confidence.shape == got.prediction.shape == (3, 2, 7)
    assert got.posterior.shape == (3, 7, 4)
    assert [a.dtype for a in (got.margin, got.loss, got.confidence, got.posterior)] == [np.float32] * 4
    assert got.prediction.dtype == np.int32
    for k, model in enumerate(models):
        for q, seen in enumerate((x, x.flip(-1))):
            logits = model.logits(seen)
            for name, signal in SIGNALS.items():
                np.testing.assert_allclose(getattr(got, name)[k, q], signal(logits, y).numpy(), rtol=1e-6)
            assert np.array_equal(got.prediction[k, q], logits.argmax(1).numpy())
        np.testing.assert_allclose(got.posterior[k], model.logits(x).softmax(1).numpy(), rtol=1e-6)
    second = got.models(slice(1, 2))
    assert np.array_equal(second.margin, got.margin[1:2])
    assert np.array_equal(second.posterior, got.posterior[1:2])
    assert (second.num_models, second.num_images) == (1, 7)
    assert second.distance is None


def test_log_p_tells_images_apart_where_the_loss_rounds_to_nothing():
    logits = torch.tensor([[110.0, 0.0], [120.0, 0.0], [-200.0, 0.0]])
    sharp = Classifier(lambda x: logits, SHAPE, 2, torch.device("cpu"), "generic: a test")
    got = measure([sharp], torch.zeros(3, *SHAPE), torch.zeros(3, dtype=torch.int64))
    assert got.loss[0, 0, :2].tolist() == [0, 0]
    np.testing.assert_allclose(got.log_p()[0, 0], [-np.exp(-110.0), -np.exp(-120.0), -200], rtol=1e-6)


def test_a_query_shows_the_images_flipped_or_shifted():
    x = torch.arange(9.0).view(1, 1, 3, 3)
    assert view(x, "plain") is x
    assert view(x, "flip")[0, 0].tolist() == [[2, 1, 0], [5, 4, 3], [8, 7, 6]]
    assert view(x, "shift:1,0")[0, 0].tolist() == [[0, 0, 0], [0, 1, 2], [3, 4, 5]]
    assert view(x, "shift:0,-1")[0, 0].tolist() == [[1, 2, 0], [4, 5, 0], [7, 8, 0]]
    assert view(x, "shift:-1,2")[0, 0].tolist() == [[0, 0, 3], [0, 0, 6], [0, 0, 0]]


@pytest.mark.parametrize(
    ("query", "message"),
    [
        ("rotate", "no such query: 'rotate'; known are plain, flip and shift:DOWN,RIGHT"),
        ("shift:1", "no such query: 'shift:1'; known are plain, flip and shift:DOWN,RIGHT"),
        ("shift:0,3", "query 'shift:0,3': shifts images of 3x3 pixels out of view"),
    ],
)
def test_unknown_queries_are_refused(query, message):
    with pytest.raises(UsageError) as error:
        view(torch.zeros(1, *SHAPE), query)
    assert str(error.value) == message


def test_logits_that_are_not_finite_are_named():
    broken = Classifier(lambda x: x.flatten(1)[:, :4] / x.flatten(1)[:, :1], SHAPE, 4, torch.device("cpu"), "a test")
    x, y = images()
    x[5, 0, 0, 0] = 0
    got = measure([classifier(0), broken], x, y)
    with pytest.raises(InputRefused, match=r"^second: gives logits that are not finite for image 5$"):
        check_finite(got, ["first", "second"])


@pytest.mark.parametrize("posterior", [False, True])
def test_bytes_are_the_same_images_on_every_path(posterior):
    x, y = (
        torch.randint(0, 256, (7, *SHAPE), generator=torch.Generator().manual_seed(4), dtype=torch.uint8),
        images()[1],
    )
    generic = [replace(classifier(s), fused=None) for s in range(3)]
    fused = [replace(model, fused=lower(network(s), SHAPE)) for s, model in enumerate(generic)]
    how = {"queries": ("plain", "flip", "shift:1,0"), "posterior": posterior}
    expected = measure(generic, x / 255, y, **how)
    for models in (generic, fused, [fused[0], generic[1], fused[2]]):
        got = measure(models, x, y, **how)
        for name in ("margin", "loss", "confidence") + ("posterior",) * posterior:
            np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6, atol=1e-6)
        assert np.array_equal(got.prediction, expected.prediction)


def answers_of(logits, y, posterior):
    model = Classifier(lambda x: logits, SHAPE, logits.shape[1], torch.device("cpu"), "generic: a test")
    return measure([model], torch.zeros(len(logits), *SHAPE), torch.tensor(y), posterior=posterior)


@pytest.mark.parametrize("posterior", [True, False])
def test_answers_that_are_all_the_same_are_refused(posterior):
    same, y = torch.tensor([[0.5, 2.0, 1.0]]).repeat(6, 1), [0, 1, 2, 2, 1, 0]
    with pytest.raises(InputRefused, match=r"^target: gives every image the same answer, so no attack can tell"):
        check_varied(answers_of(same, y, posterior), np.array(y), "target")
    for change in (torch.tensor([0, 0, 1e-3]), torch.tensor([9.0, 0, 0])):  # one image is answered otherwise
        other = same.clone()
        other[4] += change
        check_varied(answers_of(other, y, posterior), np.array(y), "target")
    sure = torch.tensor([[200.0, 0, 0], [210.0, 0, 0]])  # whose posteriors are the same in float32
    check_varied(answers_of(sure, [0, 0], posterior), np.array([0, 0]), "target")


def test_one_image_a_class_is_no_sign_of_sameness():
    check_varied(answers_of(torch.tensor([[3.0, 1.0], [2.0, 1.0]]), [0, 1], False), np.array([0, 1]), "target")


@pytest.mark.parametrize("queries", [("plain",), ("plain", "flip")])
def test_models_of_one_program_are_asked_at_once(monkeypatch, queries):
    """Natively or by its reference: the figures of the generic path to rounding, and the same whoever else is asked."""
    calls, op = [], statistics_module.shadow_statistics

    def counted(x, parameters, label, *, program):
        calls.append(tuple(parameters.shape))
        return op(x, parameters, label, program=program)

    monkeypatch.setattr(statistics_module, "shadow_statistics", counted)
    generic = [replace(classifier(s), fused=None) for s in range(3)]
    fused = [replace(model, fused=lower(network(s), SHAPE)) for s, model in enumerate(generic)]
    (x, y), steps = images(), []
    got = measure(fused, x, y, queries=queries, advance=lambda: steps.append(1))
    assert calls == [(3, 40)] * len(queries)
    assert len(steps) == 3 * len(queries)
    expected = measure(generic, x, y, queries=queries)
    for name in ("margin", "loss", "confidence"):
        np.testing.assert_allclose(getattr(got, name), getattr(expected, name), rtol=1e-6)
        assert getattr(got, name).dtype == np.float32
    assert np.array_equal(got.prediction, expected.prediction)
    alone = measure(fused[1:2], x, y, queries=queries)
    assert np.array_equal(alone.margin, got.margin[1:2])
    calls.clear()
    other = replace(fused[0], fused=lower(nn.Sequential(nn.Flatten(), nn.Linear(9, 5)), SHAPE))
    measure([fused[0], other], x, y)
    measure([fused[0], generic[1]], x, y)
    assert calls == []
    whole = measure(fused, x, y, queries=queries, posterior=True)
    assert whole.posterior.shape == (3, 7, 4)
    assert np.array_equal(whole.margin, got.margin)
