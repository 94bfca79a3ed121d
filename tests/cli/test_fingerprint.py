"""`pydrift fingerprint` as its users run it, and the screening of a set."""

import json
import shutil
import subprocess
import sys
from functools import partial

import numpy as np
import pytest
from scipy.stats import betabinom

from pydrift.cli.fingerprint import _DETECTORS
from pydrift.fingerprint import DETECTORS, fit_fingerprint
from pydrift.fingerprint.screening import p_of_count
from pydrift.models.file import load_model
from tests.command_line import call

pytestmark = pytest.mark.slow

called = partial(call, "fingerprint")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("fingerprint")


@pytest.fixture(scope="module")
def made(digits, folder):
    members = folder / "members.npy"
    np.save(members, np.arange(1000))
    base, file = digits.path("base"), folder / "base.fp"
    command = [sys.executable, "-m", "pydrift", "fingerprint", "fit", base, "--data", "digits", "--members", members]
    done = subprocess.run([*command, "--out", file], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert done.stdout == (
        f"{file}: neuralfp of base.safetensors, 1 layers (fc2)\n"
        "fitted on 1000 images of digits (train), calibrated on 442 others\n"
    )
    assert "reading activations: 6/6" in done.stderr
    return file


@pytest.fixture(scope="module")
def foreign(folder):
    file = folder / "noise.npz"
    rng = np.random.default_rng(0)
    np.savez(file, x=rng.random((80, 8, 8)), y=np.arange(80) % 10)
    return f"npz:{file}"


def score(made, digits, *more, model="base"):
    return called("score", made, "--model", digits.path(model), *more)


def test_json_is_one_document_and_scores_go_to_a_file(made, digits, folder):
    out = folder / "screening"
    done = score(made, digits, "--data", "digits", "--split", "test", "--json", "--out", out)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["images"] == len(result["p"]) == len(digits.holdout)
    assert result["flagged"] == sum(p <= 0.05 for p in result["p"])
    assert result["share"] == result["flagged"] / result["images"]
    assert result["interval"][0] < result["share"] < result["interval"][1]
    assert result["p_set"] == p_of_count(result["flagged"], result["images"], 442, 0.05)
    assert result["fingerprint"]["detector"] == "neuralfp"
    assert json.loads((out / "screening.json").read_text()) == result
    with np.load(out / "scores.npz") as arrays:
        assert arrays["p"].tolist() == result["p"]
        assert arrays["p"][arrays["score"].argmin()] == arrays["p"].min()
        assert (arrays["prediction"] == digits.holdout.y.numpy()).mean() > 0.9


def test_the_model_need_not_be_named_where_its_file_has_stayed(made, digits):
    named = called("score", made, "--data", "digits", "--split", "test", "--model", digits.path("base"))
    assert named == called("score", made, "--data", "digits", "--split", "test")
    assert named[0] == 0


def test_a_model_that_has_gone_or_changed_is_named(digits, folder):
    file, moved = folder / "gone.safetensors", folder / "gone.fp"
    shutil.copy(digits.path("base"), file)
    assert called("fit", file, "--data", "digits", "--out", moved)[0] == 0
    shutil.copy(digits.path("benign"), file)
    code, _, err = called("score", moved, "--data", "digits")
    assert (code, "gone.safetensors: the fingerprint is of another model" in err) == (4, True)
    file.unlink()
    code, out, err = called("score", moved, "--data", "digits")
    assert (code, out) == (2, "")
    assert f"{file}: the model that {moved} was made of is no longer there; name its file (--model)" in err
    assert called("score", moved, "--data", "digits", "--model", digits.path("base"))[0] == 0
    fit_fingerprint(load_model(digits.path("base")).module, digits.data, detector="msp").save(moved)
    code, _, err = called("score", moved, "--data", "digits")
    assert code == 2
    assert f"{moved}: does not say which file its model is in; name it (--model)" in err


def test_the_exit_code_says_whether_too_many_are_foreign(made, digits, foreign, folder):
    out = folder / "strange"
    strange = score(made, digits, "--data", foreign, "--fail-above", "0.5", "--out", out)
    assert strange.returncode == 1, strange.stdout
    assert strange.stderr.endswith("of the images are flagged, more than 0.5\n")
    assert "more than chance explains" in strange.stdout
    assert "strangest: image " in strange.stdout
    assert strange.stdout.splitlines()[0] in (out / "screening.html").read_text()
    assert strange.stdout.endswith(f"report: {out / 'screening.html'}\n")
    known = score(made, digits, "--data", "digits", "--split", "test", "--fail-above", "0.5")
    assert known.returncode == 0, known.stderr


def test_fit_prints_json_with_what_a_reader_must_know(digits, folder):
    out = folder / "other.fp"
    done = called("fit", digits.path("base"), "--data", "digits", "--out", out, "--detector", "knn", "--json")
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["file"] == str(out)
    assert result["fingerprint"]["settings"] == {"k": 50, "bank": 10_000}
    (reason,) = result["fingerprint"]["reasons"]
    assert "it is not known which images" in reason


@pytest.mark.parametrize(
    ("arguments", "code", "words"),
    [
        (["score", "{made}", "--model", "{benign}", "--data", "digits"], 4, "the fingerprint is of another model"),
        (["score", "{base}", "--model", "{base}", "--data", "digits"], 4, "not a fingerprint"),
        (["score", "{folder}/no", "--model", "{base}", "--data", "digits"], 2, "no such file"),
        (["score", "{made}", "--model", "{base}", "--data", "digits", "--alpha", "0.001"], 2, "needs 999 held-out"),
        (["score", "{made}", "--model", "{base}", "--data", "digits", "--alpha", "2"], 2, "alpha must lie between"),
        (
            ["score", "{made}", "--model", "{base}", "--data", "npz:{folder}/big.npz"],
            4,
            "images of 1x9x9, but the model",
        ),
        (["score", "{made}", "--model", "{base}", "--data", "digits", "--fail-above", "7"], 2, "fail-above"),
        (["score", "{made}", "--model", "{base}", "--data", "digits", "--out", "{made}"], 2, "cannot be written"),
        (["fit", "{base}", "--data", "digits", "--out", "{folder}"], 2, "cannot be written"),
        (["fit", "{base}", "--data", "digits", "--out", "{folder}/x", "--detector", "magic"], 2, "no such detector"),
        (["fit", "{base}", "--data", "npz:{folder}/big.npz", "--out", "{folder}/x"], 4, "does not take images"),
        (["fit", "{base}", "--data", "digits", "--out", "{folder}/x", "--members", "{base}"], 4, "not an npy file"),
    ],
)
def test_bad_calls_say_what_was_wrong(made, digits, folder, arguments, code, words):
    np.savez(folder / "big.npz", x=np.zeros((40, 9, 9)), y=np.arange(40) % 10)
    names = {"made": made, "folder": folder, "base": digits.path("base"), "benign": digits.path("benign")}
    left, out, err = called(*(argument.format(**names) for argument in arguments))
    assert left == code, err
    assert words in err
    assert out == ""
    assert not (folder / "x").exists()


def test_the_help_names_every_detector():
    assert _DETECTORS.replace(" or ", ", ").split(", ") == list(DETECTORS)


def test_the_p_of_a_count_is_exact():
    """Against a simulation of images and held-out ones that are alike."""
    rng = np.random.default_rng(0)
    counts = []
    for _ in range(20_000):
        held_out, scores = np.sort(rng.random(39)), rng.random(50)
        p = (np.searchsorted(held_out, scores, side="right") + 1) / 40
        counts.append((p <= 0.05).sum())
    for count in (0, 1, 3, 6, 10):
        expected = np.mean(np.array(counts) >= count)
        assert p_of_count(count, 50, 39, 0.05) == pytest.approx(expected, abs=0.012)
    assert p_of_count(0, 50, 39, 0.05) == 1
    assert p_of_count(50, 50, 39, 0.05) == pytest.approx(betabinom.pmf(50, 50, 2, 38))
    assert 0 < p_of_count(10_000, 10_000, 10_000, 0.05) < 1e-300
