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
    """A calibrated auditor, and a function that trains a update of its base."""
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
    alarms = sum(report.verdict == "drift" for report in reports)
    assert all(report.verdict != "inconclusive" for report in reports)
    assert alarms <= 2  # of 20 at alpha 0.05
    p_values = np.array([c.p_value for report in reports for c in report.classes])
    assert (p_values <= 0.5).mean() == pytest.approx(0.5, abs=0.3)  # neither blind nor beside itself


def test_blatant_drifts_are_found_and_named(audited):
    auditor, update = audited
    found, first, beside = 0, 0, 0
    for i, drift in enumerate(BLATANT):
        report = auditor.compare(update(300 + i, drift=drift))
        found += report.verdict == "drift"
        worst = min(report.classes, key=lambda c: c.p_value)
        changed = drift.partition(":")[2].split(",")
        first += worst.name in changed
        beside += sum(c.verdict == "drift" and c.name not in changed for c in report.classes)
    assert found >= len(BLATANT) - 1
    assert first >= len(BLATANT) - 1
    assert beside <= 3 * len(BLATANT)  # of eight or nine others each: fine-tuned models stray in many ways at once


def test_the_base_looks_like_its_shadows_unless_they_were_trained_otherwise(audited, data):
    auditor, update = audited
    if auditor.calibration.update_mode == "finetune":
        assert auditor.calibration.base_p_value is None
        return
    assert auditor.calibration.base_p_value > 0.01
    other = TrainingRecipe(label_smoothing=0.3)
    strange = DriftAuditor(update(1), shadows=16, recipe=other, size=SIZE, device="cpu").fit(data)
    assert strange.calibration.base_p_value <= 0.01
    report = strange.compare(update(2))
    assert report.verdict == "inconclusive"
    assert "the base itself does not resemble its shadows" in report.reasons[0]
