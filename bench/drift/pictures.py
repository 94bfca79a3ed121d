"""A picture of drifts that the drift suite did not find: what the models take the drifted class to look like.

For each kind of drift of single classes that gray data alone did not find after a retrain, the most blatant: a row with
four gray images of the base, of an benign update and of the drifted update, all from the same starts.

    python bench/drift_pictures.py --data DIR --work DIR --set fashion-mnist --png FILE

Which ones were missed is read from the results under bench/results; the models from --work of drift_suite.py, or they
are trained.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch

from bench.drift.candidates import Update, datasets, updates
from bench.drift.models import base_job, train_all, update_job
from bench.drift.summary import OURS
from pydrift.core.store import check_writable, write_atomic
from pydrift.data import load_data
from pydrift.inversion import GradientAscent
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import exact_arithmetic, freeze
from pydrift.models.file import load_model

RESULTS = Path(__file__).parent / "results"
IMAGES, MODE, CPU = 4, "retrain", torch.device("cpu")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder of the standard data files")
    parser.add_argument("--set", default="fashion-mnist", choices=list(datasets("")))
    parser.add_argument("--resume-dir", type=Path, default=Path("suite"), help="as drift_suite.py's")
    parser.add_argument("--png", type=Path, required=True)
    options = parser.parse_args()
    check_writable(options.png)
    data, folder = datasets(options.data)[options.set], options.work / options.set
    every = updates(data)
    input_shape = load_data(data.source, "test").input_shape
    rows: list[list[np.ndarray]] = []
    for missed in missed_drifts(options.set, every):
        benign = next(u for u in every if u.drift is None and u.base == missed.base)
        jobs = [base_job(data, missed.base), *(update_job(data, MODE, u, folder) for u in (benign, missed))]
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


def missed_drifts(of_set: str, every: list[Update]) -> list[Update]:
    """Of each kind with a class of its own the most blatant that gray data alone did not find at 5 % false alarms."""
    cells = json.loads((RESULTS / f"drift_suite_{of_set.replace('-', '_')}.json").read_text())["cells"]
    (found,) = (cell["rows"] for cell in cells if cell["mode"] == MODE)
    score = {row["update"]["seed"]: row["methods"][OURS]["score"] for row in found}
    threshold = np.quantile([score[u.seed] for u in every if u.drift is None], 0.95)
    missed = [u for u in every if u.drift is not None and u.classes and score[u.seed] <= threshold]
    worst = {u.kind: u for u in sorted(missed, key=lambda u: u.strength or 0)}
    return list(worst.values())


if __name__ == "__main__":
    main()
