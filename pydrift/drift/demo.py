"""The drift audit on small, embedded data: scikit-learn's digits, a benign candidate and a drifted one."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pydrift.core.parallel import each
from pydrift.core.progress import Progress
from pydrift.data import load_data, plant
from pydrift.drift.audit import DriftAuditor
from pydrift.drift.result import DriftReport
from pydrift.models.file import load_model
from pydrift.training import predict
from pydrift.training.train_model import train_model

ARCH = "convnet:1x8x8:16,32:64:10"
SIZE = 1000  # of 1442: each model sees its own draw
DRIFT = "swap:3,8"


@dataclass(frozen=True)
class Outcome:
    """One candidate of the demo: its report, and its accuracy on unseen images with labels like its training data's."""

    name: str
    accuracy: float
    report: DriftReport


def run_demo(out: Path, progress: Progress) -> list[Outcome]:
    """Trains a base and two candidates, calibrates once, and audits both candidates.

    It leaves the models and the calibration in `out`; the caller writes the reports.
    """
    data, holdout = load_data("digits"), load_data("digits", "test")
    plans = [("base", 1, None), ("benign", 2, None), ("drifted", 3, DRIFT)]
    with progress:
        progress.phase("training base and candidates", len(plans))
        trained = each(lambda plan: train_model(ARCH, data, size=SIZE, seed=plan[1], drift=plan[2]), plans)
        for (name, _, _), model in zip(plans, trained, strict=True):
            model.save(out / f"{name}.safetensors")
            progress.advance(note=name)
    # The candidates are drawn from the same images as the shadows, and trained by the same recipe.
    auditor = DriftAuditor(out / "base.safetensors", recipes="same", size=SIZE, progress=progress).fit(data)
    auditor.save(out / "calibration")
    outcomes = []
    for name, seed, drift in plans[1:]:
        report = auditor.compare(out / f"{name}.safetensors", holdout)
        current = holdout if drift is None else plant(holdout, drift, seed, "test")
        predictions = predict(load_model(out / f"{name}.safetensors").module, current.x)
        outcomes.append(Outcome(name, float((predictions == current.y).float().mean()), report))
    return outcomes
