"""The verdict's error rates on real training: benign updates and planted drifts of small networks on digits."""

import numpy as np
import pytest
import torch

from pydrift import DriftAuditor, load_data
from pydrift.models.file import load_model
from pydrift.models.recipe import TrainingRecipe
from pydrift.training.train_model import train_model

pytestmark = pytest.mark.slow

ARCH, SIZE = "mlp:1x8x8:48:10", 1000
BLATANT = ["swap:3,8", "relabel:1,7,0.5", "flip:1", "rotate:1,90", "patch:4,1.0", "backdoor:6,0.1", "remove:5"]


@pytest.fixture(scope="module")
def data():
    return load_data("digits")


@pytest.fixture(scope="module", params=["retrain", "finetune"])
def audited(request, data, tmp_path_factory):
    """A calibrated auditor of both nulls, and a function that trains an update of its base.

    The updates are live modules, of which no recipe is known unless it is stated.
    """
    path = tmp_path_factory.mktemp(request.param) / "base.safetensors"
    train_model(ARCH, data, size=SIZE, seed=1).save(path)
    base = load_model(path)
    auditor = DriftAuditor(path, update_mode=request.param, size=SIZE, device="cpu").fit(data)

    def update(seed, recipe=None, drift=None):
        start = base if request.param == "finetune" else None
        torch.set_num_threads(1)
        return train_model(ARCH, data, size=SIZE, seed=seed, recipe=recipe, init=start, drift=drift).module

    return auditor, update


def test_benign_updates_of_any_recipe_in_range_pass(audited):
    auditor, update = audited
    reports = [auditor.compare(update(100 + i, TrainingRecipe().varied(200 + i, SIZE))) for i in range(20)]
    assert {report.null.recipes for report in reports} == {"varied"}
    alarms = sum(report.verdict == "drift" for report in reports)
    outside = sum(report.verdict == "inconclusive" for report in reports)
    assert alarms <= 2  # of 20 at alpha 0.05
    assert outside <= 3  # whose level lies beyond 95 % of the shadows'
    p_values = np.array([c.p_value for report in reports for c in report.classes])
    assert (p_values <= 0.5).mean() == pytest.approx(0.5, abs=0.3)  # neither blind nor beside itself


def test_benign_updates_of_the_bases_recipe_pass(audited):
    auditor, update = audited
    reports = [auditor.compare(update(150 + i), recipe="same") for i in range(20)]
    assert {report.null.recipes for report in reports} == {"same"}
    assert sum(report.verdict == "drift" for report in reports) <= 2  # of 20 at alpha 0.05
    assert all(report.verdict != "inconclusive" for report in reports)
    p_values = np.array([c.p_value for report in reports for c in report.classes])
    assert (p_values <= 0.5).mean() == pytest.approx(0.5, abs=0.3)


@pytest.mark.parametrize("recipe", ["same", None])
def test_blatant_drifts_are_found_and_named(audited, recipe):
    auditor, update = audited
    found, first, beside = 0, 0, 0
    for i, drift in enumerate(BLATANT):
        report = auditor.compare(update(300 + i, drift=drift), recipe=recipe)
        found += report.verdict == "drift"
        worst = max(report.classes, key=lambda c: c.drift_score)
        changed = drift.partition(":")[2].split(",")
        first += worst.name in changed
        beside += sum(c.verdict == "drift" and c.name not in changed for c in report.classes)
    assert found >= len(BLATANT) - 1
    assert first >= len(BLATANT) - 1
    assert beside <= 3 * len(BLATANT)  # of eight or nine others each: fine-tuned models stray in many ways at once


def test_the_base_looks_like_its_shadows_unless_they_were_trained_otherwise(audited, data):
    auditor, update = audited
    of_both = [null.base_p_value for null in auditor.calibration.nulls.values()]
    if auditor.calibration.update_mode == "finetune":
        assert of_both == [None, None]
        return
    assert min(of_both) > 0.01
    other = TrainingRecipe(label_smoothing=0.3)
    options = {"shadows": 16, "recipe": other, "recipes": "same", "size": SIZE, "device": "cpu"}
    strange = DriftAuditor(update(1), **options).fit(data)
    assert strange.calibration.nulls["same"].base_p_value <= 0.01
    report = strange.compare(update(2))
    assert report.verdict == "inconclusive"
    assert "the base itself does not resemble its shadows" in report.reasons[0]
