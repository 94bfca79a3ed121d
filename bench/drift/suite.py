"""How well a concept drift is told from an benign update: pydrift, and what a team would look at instead.

Trains base models, benign updates (other seeds, samples and recipes) and updates with drifts planted at three
strengths; calibrates on each base, judges every update of it by every method, and prints one table per data set and
way of updating. Models and calibrations are kept under `--work` and not made twice.

    python bench/drift_suite.py --data data --set digits --set fashion-mnist --json bench/results/drift_suite.json
    python bench/drift_suite.py --quick
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
import argparse
import json
import time
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, replace
from functools import partial
from hashlib import sha256
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.harness import machine
from bench.drift.alternatives import Alternatives
from bench.drift.candidates import MODES, DataSet, Update, datasets, updates
from bench.drift.models import base_job, train_all, update_job
from bench.drift.summary import print_tables
from pydrift import DriftAuditor
from pydrift.core.store import write_atomic
from pydrift.data import LabelledImages, load_data
from pydrift.drift.calibration import FORMAT, Calibration
from pydrift.drift.responses import Responses, candidate_responses, of_models, reference_responses
from pydrift.drift.verdict import judge
from pydrift.models.classifier import exact_arithmetic, freeze
from pydrift.models.file import load_model
from pydrift.shadows import train_shadows, update_draw

ALPHA, SHADOWS, RESTARTS = 0.05, 32, 4
CPU = torch.device("cpu")


def suite_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder of the standard data files")
    parser.add_argument("--set", action="append", choices=list(datasets("")), help="default: all four")
    parser.add_argument("--mode", action="append", choices=MODES)
    parser.add_argument("--shadows", type=int, default=SHADOWS)
    parser.add_argument("--restarts", type=int, default=RESTARTS)
    parser.add_argument("--recipes", default="varied", choices=("varied", "same"))
    parser.add_argument("--instruments", help="judge by these only, comma-separated (an ablation)")
    parser.add_argument("--no-alternatives", action="store_true")
    parser.add_argument("--quick", action="store_true", help="digits, and of each kind one update")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument(
        "--resume-dir", type=Path, default=Path("suite"), help="to be emptied where pydrift's code changes"
    )
    parser.add_argument("--json", type=Path)
    return parser


def chosen_updates(data: DataSet, quick: bool) -> list[Update]:
    found = updates(data)
    if not quick:
        return found
    first = {(u.kind, u.strength): u for u in reversed(found)}
    return [replace(u, base=0) for u in found if first[u.kind, u.strength] is u]


def calibrated(options: argparse.Namespace, data: DataSet, mode: str, base: int, folder: Path) -> Calibration:
    """The calibration of a base on the whole pool of training data, kept in a folder named after what it depends on.

    Shadows depend neither on how many others there are nor on what is done with them: those that DriftAuditor would
    train are trained once, up to SHADOWS of them, and it is given them as if by the user's own training.
    """
    trained_count = max(options.shadows, SHADOWS)
    file = base_job(data, base).file(folder)
    told = [file.name, mode, options.shadows, options.restarts, options.recipes, FORMAT]
    where = folder / f"calibration-{_hash(told)}"
    if not (where / "MANIFEST.json").exists():
        images = load_data(data.source)
        bank = train_shadows(
            file,
            images,
            trained_count,
            update_mode=mode,
            draw=update_draw(len(images), None, data.size),  # updates are drawn from the same images
            recipes=options.recipes,
            seed=base,
            resume_dir=folder / f"shadows-{_hash([file.name, mode, trained_count, options.recipes])}",
            device="cpu",
        )
        trained = iter(bank.models())
        auditor = DriftAuditor(
            file,
            options.shadows,
            mode,
            options.restarts,
            base,
            train=lambda *_: next(trained),  # which it asks for one after the other
            size=data.size,
            device="cpu",
        )
        auditor.fit(images).save(where)
    return Calibration.load(where)


def _hash(told: list[Any]) -> str:
    return sha256(repr(told).encode()).hexdigest()[:16]


def judged_base(options: argparse.Namespace, data: DataSet, mode: str, base: int) -> list[dict[str, Any]]:
    """What every method says of every update of one base."""
    torch.set_num_threads(1)
    folder = options.work / data.name
    fitted = calibrated(options, data, mode, base, folder)
    test = load_data(data.source, "test")
    models = [freeze(m, fitted.input_shape, CPU) for m in (fitted.base.module, *fitted.shadows)]
    of_known = reference_responses(models, test, lambda: None)
    alternatives = Alternatives(fitted.base.module, test)
    rows = []
    for update in chosen_updates(data, options.quick):
        if update.base != base:
            continue
        module = load_model(update_job(data, mode, update, folder).file(folder)).module
        began = time.process_time()
        with exact_arithmetic():
            verdicts = _verdicts(options, fitted, models, of_known, module, test)
        row: dict[str, Any] = {
            "update": asdict(update),
            "judging_s": time.process_time() - began,
        }
        row["methods"] = verdicts
        if not options.no_alternatives:
            found = alternatives.judge(module, update.drift, update.seed)
            row["methods"] |= {name: asdict(finding) for name, finding in found.items()}
        rows.append(row)
    return rows


def _verdicts(
    options: argparse.Namespace,
    fitted: Calibration,
    models: list[Any],
    of_known: Responses,
    module: torch.nn.Module,
    test: LabelledImages,
) -> dict[str, Any]:
    """pydrift's own verdicts, without and with reference data, as DriftAuditor.compare makes them but for what that
    adds: a model that is the base itself is stable, and a base unlike its shadows leaves all inconclusive."""
    new = freeze(module, fitted.input_shape, CPU)
    gray = fitted.attack.invert(new, fitted.restarts, fitted.seed)
    seen = candidate_responses(models, new, fitted.consensus, gray.images, lambda: None)
    chosen = options.instruments.split(",") if options.instruments else list(seen)
    answers, seen = ({i: views[i] for i in chosen} for views in (fitted.answers, seen))
    of_data = of_models(reference_responses([new], test, lambda: None), 0)
    found = {}
    for name, known, told in (
        ("pydrift, gray only", answers, seen),
        ("pydrift, with reference data", answers | of_known, seen | of_data),
    ):
        shadows = of_models(known, slice(1, None))
        verdict = judge(shadows, told, None, fitted.confidence, fitted.class_names, ALPHA)
        p_values = [1.0 if c.p_value is None else c.p_value for c in verdict.classes]
        found[name] = {
            "score": -float(np.log10(min(p_values))),
            "alarm": verdict.verdict == "drift",
            "first": int(np.argmin(p_values)),
            "verdict": verdict.verdict,
            "p_values": p_values,
            "named": [c.index for c in verdict.classes if c.verdict == "drift"],
            "base_p_value": fitted.base_p_value,
        }
    return found


def cell(options: argparse.Namespace, data: DataSet, mode: str) -> list[dict[str, Any]]:
    """What every method says of every update of one data set and mode."""
    folder, wanted = options.work / data.name, chosen_updates(data, options.quick)
    bases = sorted({u.base for u in wanted})
    list(train_all([base_job(data, b) for b in bases], folder, options.workers))
    list(train_all([update_job(data, mode, u, folder) for u in wanted], folder, options.workers))
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        return [row for rows in pool.map(partial(judged_base, options, data, mode), bases) for row in rows]


def main() -> None:
    options = suite_parser().parse_args()
    sets = datasets(options.data)
    wanted = options.set or (["digits"] if options.quick else list(sets))
    cells = []
    for name in wanted:
        for mode in options.mode or MODES:
            cells.append({"set": name, "mode": mode, "rows": cell(options, sets[name], mode)})
            print_tables(cells[-1])
            if options.json is not None:
                told = {k: str(v) for k, v in vars(options).items() if k not in ("data", "work", "json")}
                result = {"machine": machine(CPU), "options": told, "cells": cells}
                text = json.dumps(_rounded(result), allow_nan=False, sort_keys=True, separators=(",", ":"))
                write_atomic(options.json, text.replace(f":{options.data},", ":data,").encode())


def _rounded(value: Any) -> Any:
    """With five digits of each number: the tables need no more, and a file has a hundred thousand of them."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
