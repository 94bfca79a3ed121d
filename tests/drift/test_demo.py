"""`make demo`: the drift audit on real, small data, in both directions."""

import pytest

from pydrift import DriftReport

pytestmark = pytest.mark.slow


def test_the_benign_candidate_passes_and_the_drifted_one_is_named(demo):
    stdout = (demo / "stdout").read_text()
    benign, drifted = (DriftReport.load(demo / "demo" / name) for name in ("benign", "drifted"))
    assert benign.verdict == "stable"
    assert drifted.verdict == "drift"
    assert {c.name for c in sorted(drifted.classes, key=lambda c: c.p_value)[:2]} == {"3", "8"}
    assert stdout.index("Stable: ") < stdout.index("Drift: ")


def test_the_drift_is_one_that_current_test_data_does_not_show(demo):
    lines = (demo / "stdout").read_text().splitlines()
    accuracies = [float(line.split("accuracy ")[1].split("%")[0]) for line in lines if "current" in line]
    assert len(accuracies) == 2
    assert min(accuracies) > 95
    assert abs(accuracies[0] - accuracies[1]) < 2


def test_the_demo_leaves_models_calibration_and_reports(demo):
    out = demo / "demo"
    assert sorted(p.name for p in out.iterdir()) == [
        *("base.safetensors", "benign", "benign.safetensors"),
        *("calibration", "drifted", "drifted.safetensors"),
    ]
    for name in ("benign", "drifted"):
        assert sorted(p.name for p in (out / name).iterdir()) == ["gray.npz", "report.html", "report.json"]
    assert "data:image/png" in (out / "drifted" / "report.html").read_text()
