"""How often does the interval of a drift score cover the drift score that other shadows give?

A base model of scikit-learn's digits is calibrated again and again, with other shadows and so with other gray data.
Each calibration judges the same benign and drifted candidates of the drift suite. An interval covers if it holds the
mean of the drift scores that all other calibrations give the same class of the same candidate. All share the base and
the reference data, and the shadows' draws of it overlap.

    python -m bench.drift.coverage [--calibrations N] [--update-mode retrain|finetune] [--json FILE]
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.harness import write_result
from bench.common.options import script_parser
from bench.drift.candidates import UPDATE_MODES, candidates, datasets
from bench.drift.models import base_job, candidate_job, train_all
from pydrift import DriftAuditor
from pydrift.data import load_data
from pydrift.models.file import load_model

BASE = 0
DATA = datasets("")["digits"]
CANDIDATES = [candidate for candidate in candidates(DATA) if candidate.base == BASE]


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--update-mode", action="append", choices=UPDATE_MODES, help="use this mode; default: both")
    parser.add_argument("--calibrations", type=int, default=16, help="calibrate so many times, twice at least")
    parser.add_argument("--workers", type=int, default=2, help="run so many processes, of one thread each")
    parser.add_argument("--resume-dir", type=Path, default=Path("suite"), help="use the models of the drift suite here")
    options = parser.parse_args()
    if options.calibrations < 2:
        parser.error("--calibrations must be 2 or more, because each is compared with the others")
    folder, results = options.resume_dir / DATA.name, {}
    list(train_all([base_job(DATA, BASE)], folder, options.workers))
    for mode in options.update_mode or UPDATE_MODES:
        files = list(train_all([candidate_job(DATA, mode, c, folder) for c in CANDIDATES], folder, options.workers))
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            found = list(pool.map(partial(judge_candidates, mode, files, folder), range(options.calibrations)))
        results[mode] = list(coverage(*map(np.array, zip(*found, strict=True))))
        counts = {"calibrations": options.calibrations, "candidates": len(CANDIDATES)}
        write_result(options.json, torch.device("cpu"), **counts, modes=results)
        print(f"{mode}: share of intervals that hold the mean drift score of the other calibrations", flush=True)
        for line in results[mode]:
            widths = f"half width {line['half width']:.2f}, deviation over calibrations {line['deviation']:.2f}"
            print(f"  {line['of']:44}{line['covered']:6.1%}   {widths}", flush=True)


def judge_candidates(mode: str, files: list[Path], folder: Path, seed: int) -> tuple[list[Any], list[Any]]:
    """Returns the drift scores [candidates, classes] and their intervals [candidates, classes, 2] for one seed."""
    torch.set_num_threads(1)
    auditor = DriftAuditor(base_job(DATA, BASE).file(folder), update_mode=mode, seed=seed, size=DATA.size, device="cpu")
    auditor.fit(load_data(DATA.source))
    reports = [auditor.compare(load_model(file)) for file in files]
    if any(c.drift_score is None for r in reports for c in r.classes):
        raise RuntimeError(f"the calibration of seed {seed} cannot measure all classes")
    return [[c.drift_score for c in r.classes] for r in reports], [[c.interval for c in r.classes] for r in reports]


def coverage(drift_scores: np.ndarray, intervals: np.ndarray) -> Iterator[dict[str, Any]]:
    """Yields the share of intervals that cover, their mean half width, and the deviation over the calibrations.

    There is one row for each distance of the mean drift score from 0. Drift scores are [calibrations, candidates,
    classes], intervals [..., 2].
    """
    low, high = np.moveaxis(intervals, -1, 0)
    of_others = (drift_scores.sum(axis=0) - drift_scores) / (len(drift_scores) - 1)
    covers, mean = (low <= of_others) & (of_others <= high), np.abs(drift_scores.mean(axis=0))
    drifted = np.array([candidate.drift is not None for candidate in CANDIDATES])[:, None]
    for name, some in {
        "benign candidates": np.broadcast_to(~drifted, mean.shape),
        "drifted ones, mean drift score within 2 of 0": drifted & (mean < 2),
        "drifted ones, mean drift score of 2 to 5": drifted & (mean >= 2) & (mean < 5),
        "drifted ones, mean drift score beyond 5": drifted & (mean >= 5),
    }.items():
        yield {
            "of": name,
            "covered": float(covers[:, some].mean()),
            "half width": float((high - low)[:, some].mean() / 2),
            "deviation": float(drift_scores.std(axis=0, ddof=1)[some].mean()),
        }


if __name__ == "__main__":
    main()
