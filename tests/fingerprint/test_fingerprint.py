"""Fingerprints from end to end: p-values, metrics, the file, scoring, refusals."""

import copy
import json
import re
from collections import OrderedDict

import numpy as np
import pytest
import torch
from safetensors.torch import load
from sklearn.metrics import average_precision_score, roc_auc_score
from torch import nn

import pydrift
from pydrift.core.errors import InputRefused, UsageError
from pydrift.core.tensors import content_digest, safetensors_bytes
from pydrift.data import load_data
from pydrift.fingerprint import DETECTORS, Conformal, Fingerprint, Scorer, separation
from pydrift.fingerprint.extraction import BLOCK
from pydrift.fingerprint.metrics import average_precision
from pydrift.models.file import load_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.training.train_model import train_model


def images(count, shape=(1, 8, 8), seed=0):
    return torch.rand((count, *shape), generator=torch.Generator().manual_seed(seed))


# --- p-values and metrics


def test_conformal_p_counts_held_out_scores_that_are_no_higher():
    conformal = Conformal.of(np.array([3.0, 1.0, 2.0, 2.0]))
    got = conformal.p(np.array([0.0, 1.0, 1.5, 2.0, 3.0, 9.0, np.nan, -np.inf]))
    assert got.tolist() == [0.2, 0.4, 0.4, 0.8, 1.0, 1.0, 0.2, 0.2]
    conformal.check_alpha(0.2)
    with pytest.raises(UsageError, match=r"^alpha 0.05 needs 19 held-out images, the fingerprint has 4$"):
        conformal.check_alpha(0.05)
    with pytest.raises(UsageError, match=r"^alpha must lie between 0 and 1, got 1$"):
        conformal.check_alpha(1)
    for bad in (np.array([]), np.array([np.inf]), np.zeros((2, 2))):
        with pytest.raises(UsageError, match=r"^held-out scores must be finite \[n\], n >= 1$"):
            Conformal.of(bad)


def test_conformal_p_is_valid_for_any_score_and_any_number_of_ties():
    rng = np.random.default_rng(0)
    for make in (lambda n: rng.normal(size=n), lambda n: rng.integers(0, 5, n).astype(float)):
        p = np.array([Conformal.of(make(39)).p(make(1))[0] for _ in range(4000)])
        for alpha in (0.025, 0.05, 0.2, 0.5):
            assert (p <= alpha).mean() <= alpha + 4 * np.sqrt(alpha * (1 - alpha) / 4000)
    exact = np.array([Conformal.of(rng.normal(size=39)).p(rng.normal(size=1))[0] for _ in range(4000)])
    assert (exact <= 0.05).mean() == pytest.approx(0.05, abs=0.015)


@pytest.mark.parametrize("ties", [False, True])
def test_the_metrics_are_those_of_scikit_learn(ties):
    rng = np.random.default_rng(0)
    inliers, outliers = rng.normal(1, 1, 300), rng.normal(0, 1, 200)
    if ties:
        inliers, outliers = inliers.round(), outliers.round()
    held_out = rng.normal(1, 1, 99)
    got = separation(inliers, outliers, Conformal.of(held_out))
    scores, inside = np.concatenate([inliers, outliers]), np.arange(500) < 300
    assert got.auroc == pytest.approx(roc_auc_score(inside, scores), rel=1e-12)
    assert got.auroc_interval[0] < got.auroc < got.auroc_interval[1]
    assert got.aupr_in == pytest.approx(average_precision_score(inside, scores), rel=1e-12)
    assert got.aupr_out == pytest.approx(average_precision_score(~inside, -scores), rel=1e-12)
    threshold = max(t for t in np.unique(scores) if (inliers >= t).mean() >= 0.95)
    assert got.fpr_at_95_tpr == pytest.approx((outliers >= threshold).mean(), abs=1e-12)
    flagged = [(1 + (held_out <= s).sum()) / 100 <= 0.05 for s in outliers]
    assert got.detection == np.mean(flagged)
    assert got.detection_interval[0] < got.detection < got.detection_interval[1]
    assert got.false_alarms == np.mean([(1 + (held_out <= s).sum()) / 100 <= 0.05 for s in inliers])
    assert average_precision(np.zeros(4), np.array([True, False, False, False])) == 0.25


# --- the fingerprint


@pytest.fixture(scope="module")
def base(digits):
    return load_model(digits.path("base"))


@pytest.fixture(scope="module")
def members(digits):
    return train_model("mlp:1x8x8:48:10", digits.data, size=1000, seed=1, recipe=TrainingRecipe(epochs=1)).drawn


@pytest.fixture(scope="module")
def fingerprint(digits, members):
    return pydrift.fit_fingerprint(digits.path("base"), digits.data, members)


def noise(count=200, seed=0):
    return images(count, seed=seed)


def test_a_fingerprint_tells_digits_from_noise(digits, fingerprint):
    scorer = fingerprint.scorer(digits.path("base"))
    known, unknown = scorer.score(digits.holdout.x), scorer.score(noise())
    result = separation(known.score, unknown.score, fingerprint.conformal)
    assert result.auroc > 0.97
    assert result.detection > 0.9
    assert result.false_alarms < 0.12  # 442 images calibrate
    assert known.p.min() >= 1 / (len(fingerprint.conformal.reference) + 1)
    assert np.array_equal(known.prediction, load_model(digits.path("base")).module(digits.holdout.x).argmax(1))


@pytest.mark.parametrize("name", [name for name in DETECTORS if name != "neuralfp"])
def test_every_detector_makes_a_fingerprint_that_is_saved_and_loaded(name, digits, members, base, tmp_path):
    made = pydrift.fit_fingerprint(base, digits.data, members, detector=name)
    made.save(tmp_path / "fp.safetensors")
    loaded = Fingerprint.load(tmp_path / "fp.safetensors")
    known, unknown = digits.holdout.x[:100], noise(100)
    expected, got = made.score(base, known), loaded.score(base, known)
    assert np.array_equal(got.score, expected.score)
    assert np.array_equal(got.p, expected.p)
    assert loaded.origin == made.origin
    assert loaded.score(base, unknown).p.mean() < got.p.mean()


@pytest.mark.slow
def test_the_same_seed_gives_the_same_file_and_another_does_not(digits, members, fingerprint, tmp_path):
    for i, seed in enumerate((0, 0, 1)):
        made = pydrift.fit_fingerprint(digits.path("base"), digits.data, members, seed=seed)
        made.save(tmp_path / str(i))
    first, second, third = ((tmp_path / str(i)).read_bytes() for i in range(3))
    assert first == second != third
    fingerprint.save(tmp_path / "again")
    assert (tmp_path / "again").read_bytes() == first
    loaded, other = Fingerprint.load(tmp_path / "again"), Fingerprint.load(tmp_path / "2")
    assert loaded.digest() == fingerprint.digest() != other.digest()


def test_a_file_and_the_module_in_it_are_one_model_and_any_other_is_refused(digits, fingerprint, base):
    x = digits.holdout.x[:5]
    expected = fingerprint.score(digits.path("base"), x)
    for same in (base, copy.deepcopy(base.module)):
        assert np.array_equal(fingerprint.score(same, x).score, expected.score)
    with pytest.raises(
        InputRefused, match=r"^benign.safetensors: the fingerprint is of another model \(base.safetenso"
    ):
        fingerprint.scorer(digits.path("benign"))
    nearly = copy.deepcopy(base.module)
    with torch.no_grad():
        nearly.fc2.bias[0] += 1e-6
    with pytest.raises(InputRefused, match="is of another model"):
        fingerprint.scorer(nearly)
    smooth = nn.Sequential(*(nn.Tanh() if isinstance(part, nn.ReLU) else part for part in base.module))
    with pytest.raises(InputRefused, match="is of another model"):
        fingerprint.scorer(smooth)


class Scaled(nn.Sequential):
    """A network with a number that is neither printed nor a weight."""

    def __init__(self, g, **parts):
        super().__init__(OrderedDict(parts))
        self.g = g

    def forward(self, x):
        return self.g * super().forward(x)


def test_a_model_of_the_same_weights_that_answers_otherwise_is_refused(digits, members, base, tmp_path):
    parts = dict(base.module.named_children())
    made = pydrift.fit_fingerprint(Scaled(1, **parts), digits.data, members)
    assert made.logits.shape == (16, 10)
    assert made.logits.dtype == torch.float32
    made.save(tmp_path / "fp")
    for each in (made, Fingerprint.load(tmp_path / "fp")):
        each.scorer(Scaled(1, **parts))
        each.scorer(Scaled(1 + 1e-5, **parts))  # as far as machines differ
        with pytest.raises(
            InputRefused, match=r"^Scaled: the fingerprint is of another model \(Scaled\): structure and"
        ):
            each.scorer(Scaled(50, **parts))


def test_the_path_of_a_model_file_is_recorded(digits, members, fingerprint, base):
    assert fingerprint.origin.model_path == str(digits.path("base").absolute())
    assert pydrift.fit_fingerprint(base.module, digits.data, members).origin.model_path is None


def test_members_are_fitted_on_and_the_others_calibrate(digits, fingerprint, members):
    origin = fingerprint.origin
    assert (origin.fitted_on, origin.held_out) == (1000, len(digits.data) - 1000)
    assert origin.reasons == ()
    assert len(fingerprint.conformal.reference) == origin.held_out
    unknown = pydrift.fit_fingerprint(digits.path("base"), digits.data).origin
    assert (unknown.fitted_on, unknown.held_out) == (1154, 288)
    assert len(unknown.reasons) == 1
    assert "it is not known which images" in unknown.reasons[0]


def test_a_stream_is_scored_as_the_whole_is_and_one_block_at_a_time(digits, fingerprint, base):
    scorer = fingerprint.scorer(base)
    x = torch.cat([digits.holdout.x, noise(300)])
    whole = scorer.score(x)
    taken = []

    def batches():
        for start in range(0, len(x), 100):
            taken.append(start)
            yield x[start : start + 100]

    torch.set_float32_matmul_precision("high")
    stream = scorer.stream(batches())
    first = next(stream)
    assert len(first) == BLOCK
    assert taken == [0, 100, 200]  # no more than the block needs
    assert torch.get_float32_matmul_precision() == "high"  # between blocks the caller's settings hold
    parts = [first, *stream]
    assert np.array_equal(np.concatenate([part.score for part in parts]), whole.score)
    assert np.array_equal(np.concatenate([part.p for part in parts]), whole.p)
    torch.set_float32_matmul_precision("highest")
    assert len(scorer.score(x[:0])) == 0


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda x: x[:, :, :7], r"images must be float32 \[N, 1, 8, 8\], got torch.float32 \[\d+, 1, 7, 8\]"),
        (lambda x: x.double(), r"images must be float32 \[N, 1, 8, 8\], got torch.float64"),
        (lambda x: x.numpy(), r"images must be float32 \[N, 1, 8, 8\], got ndarray"),
        (lambda x: torch.cat([x[:259], x[:1] * 2]), r"image 259 has values outside \[0, 1\], or not finite"),
        (lambda x: x.where(torch.arange(len(x))[:, None, None, None] != 3, torch.nan), "image 3 has values"),
    ],
)
def test_inputs_that_are_no_images_are_refused(make, message, digits, fingerprint, base):
    with pytest.raises(InputRefused, match=f"^{message}"):
        fingerprint.score(base, make(digits.holdout.x))


def test_data_that_cannot_be_used_is_refused(digits, base):
    with pytest.raises(InputRefused, match=r"^model: does not take images of shape 1x28x28"):
        pydrift.fit_fingerprint(base, (images(60, (1, 28, 28)), torch.arange(60) % 10))
    with pytest.raises(InputRefused, match=r"^model has 10 classes, but data has 3; if some classes have no images"):
        pydrift.fit_fingerprint(base, (images(60), torch.arange(60) % 3))
    with pytest.raises(InputRefused, match=r"^data: 18 images to calibrate on, 19 are needed$"):
        pydrift.fit_fingerprint(base, (images(90), torch.arange(90) % 10))
    with pytest.raises(InputRefused, match=r"^members: entry 1 is 60, outside 0..59$"):
        pydrift.fit_fingerprint(base, (images(60), torch.arange(60) % 10), [3, 60])
    with pytest.raises(UsageError, match=r"^no such detector: 'magic'"):
        pydrift.fit_fingerprint(base, digits.data, detector="magic")
    with pytest.raises(UsageError, match=r"^seed must be in"):
        pydrift.fit_fingerprint(base, digits.data, seed=-1)


def test_files_that_are_no_fingerprints_are_refused(digits, fingerprint, tmp_path):
    path = tmp_path / "fp.safetensors"
    fingerprint.save(path)
    raw = path.read_bytes()
    tensors = load(raw)
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    about = json.loads(header["__metadata__"]["pydrift.fingerprint"])
    written = about.pop("sha256")
    assert written == content_digest(about, tensors)

    def refused(match, tensors=tensors, **changes):
        known = {k: v for k, v in {**about, **changes}.items() if v is not None}
        known = {"sha256": content_digest(known, tensors), **known}
        path.write_bytes(safetensors_bytes(tensors, {"pydrift.fingerprint": json.dumps(known)}))
        with pytest.raises(InputRefused, match=match):
            Fingerprint.load(path).scorer(digits.path("base"))

    refused("not a readable fingerprint: its content is not what was written", held_out=7, sha256=written)
    moved = {**tensors, "detector.centre": tensors["detector.centre"] + 1e-6}
    refused("not a readable fingerprint: its content is not what was written", moved, sha256=written)
    version = (
        r"fp\.safetensors: a fingerprint of schema version 2; this pydrift reads version 3\. "
        r"Make it again with pydrift fingerprint fit\.$"
    )
    refused(version, schema_version=2)
    refused(version, schema_version=2, kind=None)
    refused(r"fp\.safetensors: not a fingerprint$", kind="pydrift calibration")
    refused("not a readable fingerprint: the model's answers", {**tensors, "logits": tensors["logits"][:3]})
    refused("not a readable fingerprint: 'logits'", {k: v for k, v in tensors.items() if k != "logits"})
    refused("another model .*: structure and weights are the same, but", {**tensors, "logits": tensors["logits"] + 1})
    refused("not a readable fingerprint: 'numbers'", numbers=None)
    refused("no such detector: 'magic'", detector="magic")
    refused("not a readable fingerprint: 'more' is unknown", more=1)
    refused("not a readable fingerprint", input_shape=[8, 8])
    refused("not a readable fingerprint: a text in it cannot be printed", model="\x1b[2J")
    refused("not a readable fingerprint: reasons: Expected `str`, got `int`", reasons=[7])
    refused("not a readable fingerprint: a text in it cannot be printed", reasons=["\x1b[2J"])
    refused("it does not fit its own model: its layers are not the model's", layers=["fc1"])
    refused("whiten of a FittedNeuralFP is missing", {k: v for k, v in tensors.items() if k != "detector.whiten.0"})
    refused("the held-out scores are not in order", {**tensors, "reference": tensors["reference"].flip(0)})
    refused("it does not fit its own model: ", {**tensors, "detector.mean.0": torch.zeros(7)})
    with pytest.raises(
        InputRefused, match=r"base.safetensors: not a fingerprint \(pydrift fingerprint fit makes one\)$"
    ):
        Fingerprint.load(digits.path("base"))
    with pytest.raises(UsageError, match="no such file"):
        Fingerprint.load(tmp_path / "nowhere")
    path.write_bytes(raw)
    assert isinstance(Fingerprint.load(path).scorer(digits.path("base")), Scorer)


def test_damaged_files_are_refused(fingerprint, tmp_path, mutated):
    path = tmp_path / "fp.safetensors"
    fingerprint.save(path)
    raw = path.read_bytes()
    for seed in range(60):
        damaged = mutated(raw, seed)
        assert damaged != raw
        path.write_bytes(damaged)
        with pytest.raises(InputRefused, match=f"^{re.escape(str(path))}: "):
            Fingerprint.load(path)


@pytest.mark.slow
def test_the_fingerprint_of_an_mnist_model_rejects_fashion(shared_data):
    """The goal: 95 % of the model's own test images accepted, 99 % of another set rejected, AUROC at least 0.998."""
    train, test = (load_data(f"mnist:{shared_data}", split) for split in ("train", "test"))
    model = train_model("convnet:1x28x28:16,32:64:10", train, size=30000, seed=1, recipe=TrainingRecipe(epochs=2))
    made = pydrift.fit_fingerprint(model.module, train, model.drawn)
    scorer = made.scorer(model.module)
    fashion = load_data(f"fashion-mnist:{shared_data}", "test")
    result = separation(scorer.score(test.x).score, scorer.score(fashion.x).score, made.conformal)
    assert result.auroc >= 0.998
    assert result.detection >= 0.99
    assert result.false_alarms <= 0.055


def test_the_names_are_where_users_look_for_them():
    assert pydrift.Fingerprint is Fingerprint
    assert {"Fingerprint", "fit_fingerprint"} <= set(pydrift.__all__)
