"""Out-of-distribution detectors against slow references in float64."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields, replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from pydrift.core.errors import InputRefused, UsageError
from pydrift.fingerprint import DETECTORS, Features, Head, NeuralFP, select_detector
from pydrift.fingerprint.detector import restore, state_of
from pydrift.fingerprint.detectors.ash import Ash, shape_activations
from pydrift.fingerprint.detectors.gen import Gen
from pydrift.fingerprint.detectors.gram import gram_rows
from pydrift.fingerprint.detectors.knn import Knn, spread_indices
from pydrift.fingerprint.detectors.mahalanobis import RIDGE, Mahalanobis
from pydrift.fingerprint.detectors.odin import EPSILON, TEMPERATURE, nudge
from pydrift.fingerprint.detectors.react import React
from pydrift.fingerprint.registry import fitted_class

CLASSES, WIDTH, CHANNELS, PLACES = 4, 12, 5, 9


def case(images=200, shift=0.0, seed=0):
    """Features of a made-up network with two layers: a map of 5 channels and a vector of 12 units, both of a ReLU."""
    rng = np.random.default_rng(seed)
    y = rng.integers(0, CLASSES, images)
    of_class = np.random.default_rng(99).normal(size=(CLASSES, WIDTH))
    mixing = np.random.default_rng(98).normal(size=(WIDTH, WIDTH))
    last = np.maximum(of_class[y] + 0.5 * rng.normal(size=(images, WIDTH)) @ mixing + shift, 0)
    maps = np.maximum(rng.normal(size=(images, CHANNELS, PLACES)) + of_class[y][:, :CHANNELS, None] + shift, 0)
    x, m = torch.from_numpy(last).float(), torch.from_numpy(maps).float()
    weight = torch.from_numpy(of_class).float()
    head = Head(weight, torch.linspace(-0.3, 0.3, CLASSES))
    logits = head(x)
    features = Features(
        logits,
        penultimate=x,
        pooled=(m.mean(dim=2), x),
        spread=(m.std(dim=2, correction=0), x[:, :0]),
        grams=(gram_rows(m), gram_rows(x[..., None])),
        nudged=logits + 0.01,
        head=head,
    )
    return features, torch.from_numpy(y)


def float64(tensor):
    return tensor.double().numpy()


def softmax(z):
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def energy(z):
    top = z.max(axis=1, keepdims=True)
    return top[:, 0] + np.log(np.exp(z - top).sum(axis=1))


# --- each detector against a slow reference in float64


def logits_of(features):
    return float64(features.logits)


def predicted_class(features):
    return features.logits.argmax(dim=1).numpy()


def expect_mahalanobis(train, y, seen, layers):
    total, labels = 0.0, y.numpy()
    for own, other in zip(layers(train), layers(seen), strict=True):
        x, new = float64(own), float64(other)
        means = np.stack([x[labels == c].mean(axis=0) for c in range(CLASSES)])
        covariance = sum(np.outer(a - means[c], a - means[c]) for a, c in zip(x, labels, strict=True)) / len(x)
        covariance += RIDGE * np.trace(covariance) / len(covariance) * np.eye(len(covariance))
        precision = np.linalg.inv(covariance)

        def score(rows, means=means, precision=precision):
            return np.array([max(-(r - m) @ precision @ (r - m) for m in means) for r in rows])

        total = total + (score(new) - score(x).mean()) / score(x).std()
    return total


def expect_knn(fitted, train, y, seen):
    a, b = (float64(f.penultimate) for f in (train, seen))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    return -np.sort(np.linalg.norm(b[:, None] - a, axis=2), axis=1)[:, 50 - 1]


def expect_vim(fitted, train, y, seen):
    x, weight, bias = (float64(t) for t in (train.penultimate, train.head.weight, train.head.bias))
    origin = -np.linalg.pinv(weight) @ bias
    np.testing.assert_allclose(weight @ origin + bias, 0, atol=1e-6)
    _, directions = np.linalg.eigh((x - origin).T @ (x - origin))
    residual = directions[:, : WIDTH // 2]
    alpha = logits_of(train).max(axis=1).mean() / np.linalg.norm((x - origin) @ residual, axis=1).mean()
    return energy(logits_of(seen)) - alpha * np.linalg.norm((float64(seen.penultimate) - origin) @ residual, axis=1)


def energy_of_head(head, activations):
    return energy(activations @ float64(head.weight).T + float64(head.bias))


def expect_react(fitted, train, y, seen):
    threshold = np.percentile(float64(train.penultimate), 80)
    return energy_of_head(train.head, np.minimum(float64(seen.penultimate), threshold))


def expect_ash(fitted, train, y, seen):
    return energy_of_head(train.head, float64(shape_activations(seen.penultimate, 90)))


def expect_she(fitted, train, y, seen):
    x, right = float64(train.penultimate), train.logits.argmax(1).eq(y).numpy()
    pairs = zip(float64(seen.penultimate), predicted_class(seen), strict=True)
    return [activation @ x[(y.numpy() == label) & right].mean(axis=0) for activation, label in pairs]


def expect_gram(fitted, train, y, seen):
    held_out = np.arange(len(train)) % 10 == 9
    predicted = predicted_class(train)

    def deviations(features):
        found = np.zeros((2, len(features)))
        for layer in range(2):
            own = float64(train.grams[layer])
            for n, row in enumerate(float64(features.grams[layer])):
                of_class = own[~held_out & (predicted == int(features.logits[n].argmax()))]
                for value, column in zip(row, of_class.T, strict=True):
                    low, high = column.min(), column.max()
                    found[layer, n] += max(low - value, 0) / (abs(low) + 1e-6)
                    found[layer, n] += max(value - high, 0) / (abs(high) + 1e-6)
        return found

    expected = deviations(train[torch.from_numpy(held_out)]).mean(axis=1)
    return -(deviations(seen) / expected[:, None]).sum(axis=0)


def expect_neuralfp(fitted, train, y, seen):
    held_out = torch.arange(len(train)) % 5 == 4

    def log_errors(features):
        layers = (np.hstack([float64(features.pooled[0]), float64(features.spread[0])]), float64(features.pooled[1]))
        found = []
        for i, x in enumerate(layers):
            part = [float64(getattr(fitted, f.name)[i]) for f in fields(fitted)[:6]]
            mean, whiten, encoder, encoder_bias, decoder, decoder_bias = part
            white = (x - mean) @ whiten
            rebuilt = np.maximum(white @ encoder.T + encoder_bias, 0) @ decoder.T + decoder_bias
            found.append(np.log(((rebuilt - white) ** 2).mean(axis=1)))
        found.append(np.log(-np.log(softmax(logits_of(features)).max(axis=1))))
        return np.stack(found, axis=1)

    own, predicted = log_errors(train[held_out]), predicted_class(train[held_out])
    counts = np.bincount(predicted, minlength=CLASSES)
    centre = np.stack([own[predicted == c].mean(0) if counts[c] >= 20 else own.mean(0) for c in range(CLASSES)])
    spread = (own - centre[predicted]).std(axis=0)
    z = (log_errors(seen) - centre[predicted_class(seen)]) / spread
    assert z.shape == (len(seen), 3)
    np.testing.assert_allclose(fitted.deviations(seen), z, rtol=1e-3, atol=1e-3)
    return -(z**2).sum(axis=1)


@dataclass(frozen=True)
class Row:
    """expected(fitted, train, y, seen) gives the scores of `seen`, whose activations differ from `train` by `shift`."""

    expected: Callable
    rtol: float
    atol: float = 0.0
    shift: float = 0.0
    images: int = 200
    settings: Mapping = field(default_factory=dict)


TABLE = {
    "msp": Row(lambda f, t, y, seen: np.log(softmax(logits_of(seen)).max(axis=1)), 2e-5, 1e-7),
    "max-logit": Row(lambda f, t, y, seen: logits_of(seen).max(axis=1), 2e-5, 1e-7),
    "energy": Row(lambda f, t, y, seen: energy(logits_of(seen)), 2e-5, 1e-7),
    "odin": Row(lambda f, t, y, seen: np.log(softmax(float64(seen.nudged) / TEMPERATURE).max(axis=1)), 2e-5, 1e-7),
    "gen": Row(
        lambda f, t, y, seen: -((softmax(logits_of(seen)) * (1 - softmax(logits_of(seen)))) ** 0.1).sum(axis=1),
        2e-5,
        1e-7,
    ),
    "react": Row(expect_react, 1e-5, 1e-5, settings={"percentile": 80}),
    "ash": Row(expect_ash, 1e-4),
    "she": Row(expect_she, 1e-4),
    "knn": Row(expect_knn, 0, 1e-4),
    "vim": Row(expect_vim, 1e-3, 1e-4, shift=0.5),
    "mahalanobis": Row(
        lambda f, t, y, seen: expect_mahalanobis(t, y, seen, lambda x: (x.penultimate,)), 2e-3, 1e-4, shift=0.7
    ),
    "mahalanobis-ensemble": Row(
        lambda f, t, y, seen: expect_mahalanobis(t, y, seen, lambda x: x.pooled), 2e-3, 1e-4, shift=0.7
    ),
    "gram": Row(expect_gram, 1e-3, shift=1.0, images=300),
    "neuralfp": Row(expect_neuralfp, 5e-3, 1e-3, shift=0.5, images=600, settings={"steps": 50}),
}
"""One row for each detector."""


def test_every_detector_has_a_row():
    assert set(TABLE) == set(DETECTORS)


@pytest.mark.parametrize("name", DETECTORS)
def test_scores_are_those_of_the_reference(name):
    row = TABLE[name]
    train, y = case(row.images)
    seen, _ = case(50, shift=row.shift, seed=1)
    fitted = select_detector(name, row.settings).fit(train, y)
    expected = row.expected(fitted, train, y, seen)
    np.testing.assert_allclose(fitted.score(seen).double(), expected, rtol=row.rtol, atol=row.atol)


# --- properties of single detectors


def test_sure_answers_stay_apart_where_their_probability_rounds_to_1():
    logits = torch.tensor([[40.0, 0, 0], [50.0, 0, 0], [80.0, 0, 0]])
    assert (logits.softmax(dim=1)[:, 0] == 1).all()
    y = torch.zeros(3, dtype=torch.int64)
    for name in ("msp", "gen"):
        score = DETECTORS[name].fit(Features(logits), y).score(Features(logits))
        assert score[0] < score[1] < score[2], name
    np.testing.assert_allclose(
        DETECTORS["msp"].fit(Features(logits), y).score(Features(logits)), -2 * np.exp([-40.0, -50, -80]), rtol=1e-5
    )


def test_gen_takes_the_largest_probabilities_only():
    train, y = case()
    p = np.sort(softmax(float64(train.logits)), axis=1)[:, ::-1]
    got = Gen(gamma=0.3, largest=2).fit(train, y).score(train)
    np.testing.assert_allclose(got, -((p * (1 - p)) ** 0.3)[:, :2].sum(axis=1), rtol=1e-5)


def test_mahalanobis_with_a_dead_unit_and_a_missing_class_is_finite():
    train, y = case()
    dead = train.penultimate.clone()
    dead[:, 3] = 0
    few = replace(train, penultimate=dead)[y != 2]
    fitted = Mahalanobis().fit(few, y[y != 2])
    assert fitted.means[0].shape == (CLASSES - 1, WIDTH)
    assert fitted.score(train).isfinite().all()
    assert (fitted.score(train) < fitted.score(few).min()).any()  # a unit that was dead speaks


@pytest.mark.parametrize("k", [1, 7, 10_000])
def test_knn_is_the_distance_to_the_kth_of_all(k):
    train, y = case(120)
    seen, _ = case(30, seed=1)
    a, b = (float64(f.penultimate) for f in (train, seen))
    a, b = (v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12) for v in (a, b))
    distances = np.sort(np.linalg.norm(b[:, None] - a, axis=2), axis=1)
    got = Knn(k=k).fit(train, y).score(seen)
    np.testing.assert_allclose(got, -distances[:, min(k, 120) - 1], atol=1e-4)


def test_the_bank_of_knn_is_spread_over_the_images():
    assert spread_indices(10, 10).tolist() == list(range(10))
    assert spread_indices(1000, 4).tolist() == [0, 250, 500, 750]
    train, y = case(100)
    assert torch.equal(Knn(bank=50).fit(train, y).bank, F.normalize(train.penultimate[::2], dim=1))


def test_ash_keeps_the_largest_and_scales_them():
    x = torch.tensor([[4.0, 3, 2, 1, 0, 0, 0, 0, 0, 0], [0.0] * 10, [1.0] * 10])
    got = shape_activations(x, 80)
    factor = np.exp(10 / 7)
    np.testing.assert_allclose(got[0], np.array([4, 3, 0, 0, 0, 0, 0, 0, 0, 0]) * factor, rtol=1e-6)
    assert got[1].tolist() == [0] * 10
    assert (got[2] > 0).sum() == 2
    np.testing.assert_allclose(got[2].max(), np.exp(5), rtol=1e-5)


def test_gram_rows_are_row_sums_of_roots_of_powers():
    rng = np.random.default_rng(0)
    a = rng.normal(size=(3, CHANNELS, PLACES))
    expected = []
    for image in a:
        rows = []
        for order in (1, 2, 3, 4, 5):
            gram = image**order @ (image**order).T
            rows.append((np.sign(gram) * np.abs(gram) ** (1 / order)).sum(axis=1))
        expected.append(np.concatenate(rows))
    np.testing.assert_allclose(gram_rows(torch.from_numpy(a).float()), expected, rtol=1e-3, atol=1e-3)


def test_gram_rows_do_not_overflow_and_vectors_have_one_order():
    huge = torch.full((1, 3, 4), 1e15)
    np.testing.assert_allclose(gram_rows(huge)[0, :3], 3 * 4e30, rtol=1e-5)
    assert gram_rows(huge).isfinite().all()
    vector = torch.tensor([[[1.0], [2.0], [4.0]]])
    assert gram_rows(vector).tolist() == [[7, 14, 28]]
    assert gram_rows(torch.zeros(2, 3, 4)).eq(0).all()


def test_odin_steps_towards_the_predicted_class():
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(3, 16, generator=generator)
    x = torch.rand(5, 1, 4, 4, generator=generator)
    got = nudge(lambda images: images.flatten(1) @ weight.T, x)
    assert not got.requires_grad
    z = float64(x.flatten(1) @ weight.T) / TEMPERATURE
    p = softmax(z)
    for n in range(5):
        gradient = (float64(weight)[p[n].argmax()] - p[n] @ float64(weight)) / TEMPERATURE
        np.testing.assert_allclose(got[n].flatten() - x[n].flatten(), EPSILON * np.sign(gradient), atol=1e-7)


# --- NeuralFP


def test_neuralfp_whitens_and_learns_to_reconstruct():
    train, y = case(600)
    fitted = NeuralFP(squeeze=2, steps=400).fit(train, y)
    own = train[torch.arange(600) % 5 != 4]
    white = (own.pooled[1] - fitted.mean[1]) @ fitted.whiten[1]
    np.testing.assert_allclose(float64(white).T @ float64(white) / len(own), np.eye(WIDTH), atol=0.01)
    untrained = NeuralFP(squeeze=2, steps=2).fit(train, y)
    errors, before = (f.log_errors(train)[:, :2].exp().mean(dim=0) for f in (fitted, untrained))
    assert (errors < 0.8 * before).all()
    assert (errors < 0.8).all()  # of a variance of 1


def test_neuralfp_is_the_same_for_a_seed_and_any_number_of_threads():
    train, y = case(300)
    first, again, other = (state_of(NeuralFP(steps=30, seed=s).fit(train, y))[0] for s in (0, 0, 1))
    torch.set_num_threads(2)
    try:
        threaded = state_of(NeuralFP(steps=30).fit(train, y))[0]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(1)
    assert all(torch.equal(first[name], again[name]) and torch.equal(first[name], threaded[name]) for name in first)
    assert not torch.equal(first["encoder.0"], other["encoder.0"])


def test_neuralfp_takes_both_sides_for_outside():
    """Where all training images vary, an image that is the mean of all is reconstructed too well."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(2000, 40, generator=generator)
    logits = torch.randn(2000, 2, generator=generator)
    train = Features(logits, pooled=(x,), spread=(x[:, :0],))
    fitted = NeuralFP(steps=100).fit(train, torch.zeros(2000, dtype=torch.int64))
    odd = torch.stack([torch.zeros(40), 3 * x[0]])
    score = fitted.score(Features(logits[:2], pooled=(odd,), spread=(odd[:, :0],)))
    deviations = fitted.deviations(Features(logits[:2], pooled=(odd,), spread=(odd[:, :0],)))
    assert deviations[0, 0] < -3
    assert deviations[1, 0] > 3
    assert (score < fitted.score(train).quantile(0.01)).all()


def test_neuralfp_reads_wide_layers_evenly():
    x = torch.randn(60, 1300, generator=torch.Generator().manual_seed(0))
    train = Features(torch.zeros(60, 2), pooled=(x,), spread=(x[:, :0],))
    fitted = NeuralFP(steps=2).fit(train, torch.zeros(60, dtype=torch.int64))
    assert fitted.whiten[0].shape == (434, 434)
    assert torch.allclose(fitted.mean[0], x[torch.arange(60) % 5 != 4].mean(dim=0)[::3], atol=1e-6)


# --- all of them


ANSWERS = ("msp", "max-logit", "energy", "odin", "gen", "react", "ash", "she")  # fooled by a strong answer to nothing


@pytest.mark.parametrize("name", DETECTORS)
def test_what_is_unlike_the_training_data_scores_lower(name):
    """The sign: units that speak faintly, or loudly and in the wrong company; a blind or inverted detector fails."""
    train, y = case(400)
    inside, _ = case(200, seed=1)
    loudness = 0.3 if name in ANSWERS else 2.0
    order = torch.from_numpy(np.random.default_rng(0).permutation(WIDTH))
    x = case(200, seed=2)[0].penultimate[:, order] * loudness
    maps = inside.pooled[0] * 3
    logits = train.head(x)
    outside = replace(
        inside,
        penultimate=x,
        logits=logits,
        nudged=logits,
        pooled=(maps, x),
        grams=(inside.grams[0] * 9, gram_rows(x[..., None])),
    )
    fitted = DETECTORS[name].fit(train, y)
    known, unknown = fitted.score(inside).double(), fitted.score(outside).double()
    assert known.shape == (200,)
    assert torch.cat([known, unknown]).isfinite().all()
    area = (known[:, None] > unknown).double().mean()
    assert area > 0.8, area


@pytest.mark.parametrize("name", DETECTORS)
def test_a_score_is_of_the_image_alone(name):
    train, y = case(200)
    seen, _ = case(60, seed=1)
    fitted = DETECTORS[name].fit(train, y)
    whole = fitted.score(seen)
    np.testing.assert_allclose(torch.cat([fitted.score(seen[:7]), fitted.score(seen[7:])]), whole, rtol=1e-4, atol=1e-5)
    assert len(fitted.score(seen[:0])) == 0


@pytest.mark.parametrize("name", DETECTORS)
def test_the_state_restores_the_detector(name):
    train, y = case(100)
    seen, _ = case(20, seed=1)
    fitted = DETECTORS[name].fit(train, y)
    tensors, numbers = state_of(fitted)
    assert all(isinstance(value, int | float) for value in numbers.values())
    again = restore(fitted_class(DETECTORS[name]), tensors, numbers)
    assert torch.equal(again.score(seen), fitted.score(seen))
    for missing in tensors:
        with pytest.raises(InputRefused, match=f"^{missing.partition('.')[0]} of a Fitted.* is missing or damaged$"):
            restore(fitted_class(DETECTORS[name]), {k: v for k, v in tensors.items() if k != missing}, numbers)


@pytest.mark.parametrize("name", DETECTORS)
def test_features_that_are_missing_and_labels_that_do_not_fit_are_refused(name):
    train, y = case(30)
    detector = DETECTORS[name]
    for need in fields(detector.needs):
        if getattr(detector.needs, need.name):
            empty = () if isinstance(getattr(train, need.name), tuple) else None
            with pytest.raises(UsageError, match=f"needs the features '{need.name}', which are missing"):
                detector.fit(replace(train, **{need.name: empty}), y)
    with pytest.raises(UsageError, match=r"^labels must be torch.int64 \[30\], got torch.int64 \[29\]$"):
        detector.fit(train, y[1:])
    with pytest.raises(UsageError, match=r"^labels must be in 0..3, got \d to 4$"):
        detector.fit(train, y + 1)
    with pytest.raises(UsageError, match=r"^a detector cannot be fitted on no images$"):
        detector.fit(train[:0], y[:0])


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Knn(k=0), "kNN: k and bank must be >= 1, got 0 and 10000"),
        (lambda: React(0), "ReAct: percentile must be in (0, 100], got 0"),
        (lambda: Ash(100), "ASH: percentile must be in [0, 100), got 100"),
        (lambda: Gen(gamma=1.0), "GEN: gamma must be in (0, 1) and largest >= 1, got 1 and 100"),
        (lambda: NeuralFP(squeeze=0), "NeuralFP: squeeze, steps and batch must be >= 1, got 0, 1000 and 128"),
        (lambda: NeuralFP().fit(*(lambda f, y: (f[:9], y[:9]))(*case(20))), "NeuralFP needs at least 10 images, got 9"),
        (lambda: select_detector("magic"), "no such detector: 'magic'; known are neuralfp, msp, "),
        (lambda: select_detector("knn", {"radius": 2}), "knn: Knn.__init__() got an unexpected keyword argument"),
    ],
)
def test_impossible_settings_are_refused(make, message):
    with pytest.raises(UsageError) as error:
        make()
    assert str(error.value).startswith(message)


def test_neuralfp_finds_an_answer_that_is_much_less_sure_than_its_class_is_used_to():
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1000, 8, generator=generator)
    logits = torch.randn(1000, 3, generator=generator) + 12 * torch.eye(3)[torch.arange(1000) % 3]
    train = Features(logits, pooled=(x,), spread=(x[:, :0],))
    fitted = NeuralFP(steps=50).fit(train, torch.arange(1000) % 3)
    unsure = replace(train[:1], logits=torch.tensor([[5.0, 4.9, 0.0]]))
    assert fitted.deviations(unsure)[0, 1] > 3
    assert fitted.score(unsure) < fitted.score(train[:1])
