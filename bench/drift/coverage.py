"""How often the interval of an drift_score covers what other shadows show.

A base model of scikit-learn's digits is calibrated again and again, with other shadows and so with other gray data.
Each calibration judges the same benign and drifted updates of the drift suite; an interval covers if it holds the mean
of the drift_scores that all other calibrations find for the same class of the same update. The base and the reference data
are the same for all, and the shadows' draws of it overlap.

    python bench/interval_coverage.py [--calibrations N] [--mode retrain|finetune] [--json FILE]
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
import argparse
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.harness import machine
from bench.drift.candidates import MODES, datasets, updates
from bench.drift.models import base_job, train_all, update_job
from pydrift import DriftAuditor
from pydrift.core.store import check_writable, write_json
from pydrift.data import load_data
from pydrift.models.file import load_model

BASE = 0
DATA = datasets("")["digits"]
UPDATES = [update for update in updates(DATA) if update.base == BASE]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", action="append", choices=MODES, help="default: both")
    parser.add_argument("--calibrations", type=int, default=16, help="2 or more")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--resume-dir", type=Path, default=Path("suite"), help="as drift_suite.py's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json is not None:
        check_writable(options.json)
    if options.calibrations < 2:
        parser.error("--calibrations: each is held against the others, so it takes 2")
    folder, results = options.work / DATA.name, {}
    list(train_all([base_job(DATA, BASE)], folder, options.workers))
    for mode in options.mode or MODES:
        files = list(train_all([update_job(DATA, mode, u, folder) for u in UPDATES], folder, options.workers))
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            found = list(pool.map(partial(judged, mode, files, folder), range(options.calibrations)))
        results[mode] = list(coverage(*map(np.array, zip(*found, strict=True))))
        if options.json is not None:
            how = {"calibrations": options.calibrations, "updates": len(UPDATES)}
            write_json(options.json, {"machine": machine(torch.device("cpu")), **how, "modes": results})
        print(f"{mode}: share of intervals that hold the mean drift_score of the other calibrations", flush=True)
        for line in results[mode]:
            widths = f"half width {line['half width']:.2f}, deviation over calibrations {line['deviation']:.2f}"
            print(f"  {line['of']:40}{line['covered']:6.1%}   {widths}", flush=True)


def judged(mode: str, files: list[Path], folder: Path, seed: int) -> tuple[list[Any], list[Any]]:
    """Effects [updates, classes] and their intervals [updates, classes, 2] by shadows of this seed."""
    torch.set_num_threads(1)
    auditor = DriftAuditor(base_job(DATA, BASE).file(folder), update_mode=mode, seed=seed, size=DATA.size, device="cpu")
    auditor.fit(load_data(DATA.source))
    reports = [auditor.compare(load_model(file)) for file in files]
    if any(c.drift_score is None for r in reports for c in r.classes):
        raise RuntimeError(f"the calibration of seed {seed} cannot measure all classes")
    return [[c.drift_score for c in r.classes] for r in reports], [[c.interval for c in r.classes] for r in reports]


def coverage(drift_scores: np.ndarray, intervals: np.ndarray) -> Iterator[dict[str, Any]]:
    """Of drift_scores [calibrations, updates, classes] and their intervals [..., 2], by how far from 0 they are on the mean:
    the share covered, the mean half width, the mean deviation over calibrations."""
    low, high = np.moveaxis(intervals, -1, 0)
    of_others = (drift_scores.sum(axis=0) - drift_scores) / (len(drift_scores) - 1)
    covers, mean = (low <= of_others) & (of_others <= high), np.abs(drift_scores.mean(axis=0))
    drifted = np.array([update.drift is not None for update in UPDATES])[:, None]
    for name, some in {
        "benign updates": np.broadcast_to(~drifted, mean.shape),
        "drifted ones, mean drift_score within 2 of 0": drifted & (mean < 2),
        "drifted ones, mean drift_score of 2 to 5": drifted & (mean >= 2) & (mean < 5),
        "drifted ones, mean drift_score beyond 5": drifted & (mean >= 5),
    }.items():
        yield {
            "of": name,
            "covered": float(covers[:, some].mean()),
            "half width": float((high - low)[:, some].mean() / 2),
            "deviation": float(drift_scores.std(axis=0, ddof=1)[some].mean()),
        }


if __name__ == "__main__":
    main()
