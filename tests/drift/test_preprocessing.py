"""Preprocessing is a part of the model: told by `normalize`, kept with the calibration, and missed where it is not."""

import types

import pytest
import torch
from torch import nn

from pydrift import DriftAuditor, InputRefused, TrainingRecipe, UsageError, save_model
from pydrift.data import LabelledImages
from pydrift.drift.base_accuracy import refuse_inaccurate_base
from pydrift.models.arch import build
from pydrift.models.classifier import Classifier
from pydrift.models.normalization import Normalization, Normalized
from pydrift.training import train
from tests.command_line import call

ARCH, HOW = "mlp:1x8x8:16:10", (0.8, 0.2)
RECIPE, OF_SHADOWS = TrainingRecipe(epochs=4, batch_size=16), TrainingRecipe(epochs=20, batch_size=16)
QUICK = {"shadows": 4, "restarts": 1, "recipes": "same", "size": 300, "recipe": OF_SHADOWS}


def trained(data, seed):
    """A network that takes normalised images, as the user's own loader makes them."""
    return train(build(ARCH, seed), (data.x - HOW[0]) / HOW[1], data.y, RECIPE, seed)


@pytest.fixture(scope="module")
def base(digits):
    return trained(digits.data, 1)


@pytest.fixture(scope="module")
def auditor(digits, base):
    return DriftAuditor(base, normalize=HOW, **QUICK).fit(digits.data)


@pytest.fixture(scope="module")
def candidate(digits):
    return trained(digits.data, 2)


def test_a_base_without_its_normalisation_is_refused_with_the_cure(digits, base):
    with pytest.raises(InputRefused, match=r"^the base's accuracy on digits .* is .*%, but that of shadows "):
        DriftAuditor(base, **QUICK).fit(digits.data)
    with pytest.raises(InputRefused, match=r"is its normalisation missing \(normalize=, --normalize\)"):
        DriftAuditor(base, update_mode="finetune", **QUICK).fit(digits.data)


def always(logits):
    """A classifier with these answers, whatever it is shown."""
    return Classifier(lambda x: logits[: len(x)], (1, 1, 1), 10, torch.device("cpu"), "generic: a test")


def test_the_base_is_measured_by_what_it_has_above_chance():
    y = torch.arange(100) % 10
    images = LabelledImages(torch.rand(100, 1, 1, 1), y, tuple("0123456789"), "a test")
    base = always(nn.functional.one_hot(torch.cat([y[:21], y[21:] + 1]) % 10, 10).float())
    with pytest.raises(InputRefused, match=r"^the base's accuracy on a test is 21.0%, but that of shadows trained on"):
        refuse_inaccurate_base(base, (0.65, None, 0.65), images)
    for shadows in ((), (None, None), (0.3, 0.3), (0.1,)):
        refuse_inaccurate_base(base, shadows, images)


def test_the_verdict_is_that_of_the_wrapped_model(auditor, digits, base, candidate):
    wrapped = [Normalized(module, Normalization.of(HOW)) for module in (base, candidate)]
    by_hand = DriftAuditor(wrapped[0], **QUICK).fit(digits.data).compare(wrapped[1])
    report = auditor.compare(candidate, digits.holdout)
    assert report.classes == by_hand.classes
    assert report.gray_candidate == by_hand.gray_candidate
    assert report.baselines.accuracy_base > 0.8
    assert report.provenance.settings["normalize"] == {"mean": [0.8], "std": [0.2]}
    assert 0 <= report.gray_base.images.min() <= report.gray_base.images.max() <= 1
    assert auditor.compare(wrapped[1]).classes == report.classes
    assert report.provenance.path_base == by_hand.provenance.path_base


def test_another_normalisation_is_refused(auditor, base, candidate, tmp_path):
    auditor.save(tmp_path / "c")
    loaded = DriftAuditor.load(tmp_path / "c", base=base, normalize=(0.8, 0.2))
    assert loaded.compare(candidate).classes == auditor.compare(candidate).classes
    with pytest.raises(InputRefused, match=r"c: calibrated with the normalisation 0.8:0.2, not with 0.5:0.5; leave it"):
        DriftAuditor.load(tmp_path / "c", base=base, normalize=(0.5, 0.5))
    with pytest.raises(InputRefused, match=r"^candidate: normalised by 0.5:0.5, expected 0.8:0.2$"):
        loaded.compare(Normalized(candidate, Normalization((0.5,), (0.5,))))


def test_means_for_other_channels_are_refused(digits, base):
    with pytest.raises(UsageError, match="3 means, but the images have 1 channels"):
        DriftAuditor(base, normalize=([0.5] * 3, [0.5] * 3), **QUICK).fit(digits.data)


def test_own_training_gets_pixels_and_returns_a_network_of_normalised_images(digits, base):
    seen = []

    def own(x, y, seed):
        seen.append((float(x.min()), float(x.max())))
        return trained(LabelledImages(x, y, digits.data.class_names, "drawn"), seed % 1000)

    auditor = DriftAuditor(base, normalize=HOW, train=own, shadows=2, restarts=1, size=400).fit(digits.data)
    assert set(seen) == {(0.0, 1.0)}
    (null,) = auditor.calibration.nulls.values()
    assert min(null.accuracy) > 0.5
    assert set(null.shadows[0].state_dict()) == {f"network.{name}" for name in base.state_dict()}


def test_finished_pieces_of_another_normalisation_are_not_taken(digits, base, tmp_path):
    how = {**QUICK, "shadows": 2, "resume_dir": tmp_path}
    first = DriftAuditor(base, normalize=HOW, **how).fit(digits.data)
    again = DriftAuditor(base, normalize=HOW, **how).fit(digits.data)
    assert again.calibration.digest() == first.calibration.digest()
    with pytest.raises(UsageError, match="choose another folder"):
        DriftAuditor(base, normalize=(0.7, 0.2), **how).fit(digits.data)


def test_shadows_start_where_init_says(digits, base):
    seeds = []

    def pretrained(seed):
        seeds.append(seed)
        return build(ARCH, seed % 1000)

    auditor = DriftAuditor(base, normalize=HOW, init=pretrained, **{**QUICK, "shadows": 2}).fit(digits.data)
    assert len(set(seeds)) == 2
    assert min(auditor.calibration.nulls["same"].accuracy) > 0.5


def test_class_names_of_the_model_are_taken_where_the_data_has_numbers(digits, base):
    words = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]
    wrapped = Normalized(base, Normalization.of(HOW))
    wrapped.config = types.SimpleNamespace(id2label=dict(enumerate(words)))
    calibration = DriftAuditor(wrapped, **{**QUICK, "shadows": 2}).fit(digits.data).calibration
    assert calibration.class_names == tuple(words)


def test_the_command_line_takes_and_checks_a_normalisation(digits, base, candidate, tmp_path):
    for name, module in (("base", base), ("candidate", candidate)):
        save_model(tmp_path / name, module, ARCH, {"recipe": OF_SHADOWS.to_json()})
    small = ["--data", "digits", "--shadows", "4", "--restarts", "1", "--recipes", "same", "--size", "300"]
    done = call("calibrate", tmp_path / "base", *small, "--out", tmp_path / "c")
    assert done.returncode == 4
    assert "is its normalisation missing" in done.stderr
    done = call("calibrate", tmp_path / "base", *small, "--normalize", "0.8:0.2", "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    assert call("audit", tmp_path / "c", tmp_path / "candidate").returncode in (0, 1, 3)
    done = call("audit", tmp_path / "c", tmp_path / "candidate", "--normalize", "0.5:0.5")
    assert done.returncode == 4
    assert "calibrated with the normalisation 0.8:0.2, not with 0.5:0.5" in done.stderr
    assert call("audit", tmp_path / "c", tmp_path / "candidate", "--normalize", "0.8").returncode == 2
