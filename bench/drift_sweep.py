"""How many shadows and gray images a class a verdict needs: the drift suite, judged with fewer and more of each.

One is varied while the other is the default. Takes the models and shadows that drift_suite.py keeps under --work, or
trains them; fewer shadows than the default are the first of these.

    python bench/drift_sweep.py --data data --set digits --json FILE
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
import argparse
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import machine
from _suite_cells import MODES, datasets, updates
from _suite_models import base_job, train_all, update_job
from _suite_table import OURS, WITH_DATA, summary
from drift_suite import RESTARTS, SHADOWS, judged_base

from pydrift.store import check_writable, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder of the standard data files")
    parser.add_argument("--set", action="append", choices=list(datasets("")), help="default: all that are there")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: both")
    parser.add_argument("--shadows", type=int, nargs="*", default=[8, 16, 24, 32, 48])
    parser.add_argument("--restarts", type=int, nargs="*", default=[1, 2, 8, 16])
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--work", type=Path, default=Path("suite"), help="as drift_suite.py's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json is not None:
        check_writable(options.json)
    sets, lines = datasets(options.data), []
    for name, mode in product(options.set or sets, options.mode or MODES):
        data, folder = sets[name], options.work / name
        every = updates(data)
        list(train_all([base_job(data, base) for base in range(data.bases)], folder, options.workers))
        list(train_all([update_job(data, mode, update, folder) for update in every], folder, options.workers))
        print(f"{name}, {mode}: AUROC, found at 5 %, right class first, found by the own rule, false alarms; seconds")
        for shadows, restarts in (*product(options.shadows, [RESTARTS]), *product([SHADOWS], options.restarts)):
            how = argparse.Namespace(
                shadows=shadows,
                restarts=restarts,
                recipes="varied",
                instruments=None,
                no_alternatives=True,
                quick=False,
                work=options.work,
            )
            with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
                rows = [
                    row
                    for of_base in pool.map(partial(judged_base, how, data, mode), range(data.bases))
                    for row in of_base
                ]
            line = {"set": name, "mode": mode, "shadows": shadows, "restarts": restarts, **_figures(rows)}
            lines.append(line)
            print(f"  {shadows:2} shadows, {restarts:2} restarts:", _text(line), flush=True)
            if options.json is not None:
                write_json(options.json, {"machine": machine(torch.device("cpu")), "lines": lines})


def _figures(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The suite's figures without and with reference data, and the mean seconds of a calibration's phases."""
    phases = {phase: [row["calibration_s"][phase] for row in rows] for phase in rows[0]["calibration_s"]}
    return {
        "gray only": summary(rows, OURS),
        "with reference data": summary(rows, WITH_DATA),
        "seconds": {phase: float(np.mean(seconds)) for phase, seconds in phases.items()},
    }


def _text(line: dict[str, Any]) -> str:
    parts = []
    for method in ("gray only", "with reference data"):
        found = line[method]
        shares = [found[name] for name in ("found_at_5", "first", "found", "false_alarms")]
        parts.append(f"{method} {found['auroc']:.3f}, " + ", ".join(f"{share:.0%}" for share in shares))
    return "; ".join([*parts, ", ".join(f"{phase} {s:.1f}" for phase, s in line["seconds"].items())])


if __name__ == "__main__":
    main()
