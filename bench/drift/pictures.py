"""Draws drifts that the drift suite missed: what the models take the drifted class to look like.

There is a row for each kind of drift of single classes that gray data alone did not find after a retrain. It shows the
most blatant one, with four gray images of the base, of a benign candidate and of the drifted candidate. All have the
same starts.

    python -m bench.drift.pictures --data DIR --resume-dir DIR --set fashion-mnist --png FILE

The results in bench/results say which drifts were missed. The models are those of the drift suite in --resume-dir, and
are trained where they are not there.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from bench.common.options import result_file
from bench.drift.candidates import DRIFT, SAME, Candidate, candidates, datasets
from bench.drift.models import base_job, candidate_job, train_all
from bench.drift.summary import OURS
from pydrift.core.files import write_atomic
from pydrift.data import load_data
from pydrift.inversion import GradientAscent
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import exact_arithmetic, freeze
from pydrift.models.file import load_model

RESULTS = Path(__file__).parents[1] / "results"
IMAGES, UPDATE_MODE, CPU = 4, "retrain", torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="read the standard data files in this folder")
    parser.add_argument("--set", default="fashion-mnist", choices=list(datasets("")), help="use this data set")
    parser.add_argument("--resume-dir", type=Path, default=Path("suite"), help="use the models of the drift suite here")
    parser.add_argument("--png", type=result_file, required=True, help="write the picture to this file")
    options = parser.parse_args()
    data, folder = datasets(options.data)[options.set], options.resume_dir / options.set
    every = candidates(data)
    input_shape = load_data(data.source, "test").input_shape
    rows: list[list[np.ndarray]] = []
    for missed in find_missed_drifts(options.set, every):
        benign = next(c for c in every if c.group == SAME and c.base == missed.base)
        jobs = [base_job(data, missed.base), *(candidate_job(data, UPDATE_MODE, c, folder) for c in (benign, missed))]
        print(f"row {len(rows) + 1}: {missed.drift}, class {missed.classes[0]}")
        row = []
        with exact_arithmetic():
            for file in train_all(jobs, folder, 1):
                classifier = freeze(load_model(file).module, input_shape, CPU, file.name)
                gray = GradientAscent().invert(classifier, IMAGES, missed.base)
                row.append([part[missed.classes[0]] for part in (gray.images, gray.confidence, gray.steps)])
        rows.append([np.concatenate(part) for part in zip(*row, strict=True)])
    images, confidence, steps = (np.stack(part) for part in zip(*rows, strict=True))
    write_atomic(options.png, GrayData(images, confidence, steps).to_png())


def find_missed_drifts(of_set: str, every: list[Candidate]) -> list[Candidate]:
    """Returns for each kind the most blatant drift that gray data alone did not find by the own rule.

    Kinds that concern no class of their own are left out.
    """
    cells = json.loads((RESULTS / f"drift_suite_{of_set.replace('-', '_')}.json").read_text())["cells"]
    (found,) = (cell["rows"] for cell in cells if cell["update_mode"] == UPDATE_MODE)
    rows = [row for row in found if row["draw"] == 0 and row["candidate"]["group"] == DRIFT]
    alarm = {row["candidate"]["seed"]: row["methods"][OURS]["alarm"] for row in rows}
    missed = [c for c in every if c.group == DRIFT and c.classes and not alarm.get(c.seed, True)]
    worst = {c.kind: c for c in sorted(missed, key=lambda c: c.strength or 0)}
    return list(worst.values())


if __name__ == "__main__":
    main()
