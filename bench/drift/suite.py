"""How well does pydrift separate drifted from benign candidates, and how well do the methods without it?

The suite trains base models, benign candidates (other seeds, samples and recipes) and candidates with drifts planted at
three strengths. It calibrates on each base, judges every candidate of it by every method, and prints one table for each
data set and update mode. Models and calibrations are kept in `--resume-dir` and not made twice.

    python -m bench.drift.suite --data data --set digits --set fashion-mnist --json bench/results/drift_suite.json
    python -m bench.drift.suite --quick
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
from bench.common.options import script_parser
from bench.drift.alternatives import Alternatives
from bench.drift.candidates import UPDATE_MODES, Candidate, DataSet, candidates, datasets
from bench.drift.models import base_job, candidate_job, train_all
from bench.drift.summary import OURS, WITH_DATA, print_tables
from pydrift import DriftAuditor
from pydrift.core.files import write_atomic
from pydrift.data import LabelledImages, load_data
from pydrift.drift.calibration import Calibration
from pydrift.drift.responses import Responses, candidate_responses, reference_responses, select_models
from pydrift.drift.verdict import Evidence, decide
from pydrift.models.classifier import exact_arithmetic, freeze
from pydrift.models.file import load_model
from pydrift.shadows import train_shadows, update_draw

ALPHA, SHADOWS, RESTARTS = 0.05, 32, 4
CPU = torch.device("cpu")


def suite_parser() -> argparse.ArgumentParser:
    """Returns the parser of the suite's options, which the sweep fills in, too."""
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="data", help="read the standard data files in this folder")
    parser.add_argument(
        "--set", action="append", choices=list(datasets("")), help="use this data set; may be repeated. Default: all"
    )
    parser.add_argument(
        "--update-mode", action="append", choices=UPDATE_MODES, help="use this mode; may be repeated. Default: both"
    )
    parser.add_argument("--shadows", type=int, default=SHADOWS, help="calibrate on so many shadows")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="invert so many gray images of a class")
    parser.add_argument(
        "--recipes", default="varied", choices=("varied", "same"), help="vary the shadows' recipes or not"
    )
    parser.add_argument("--probes", help="decide by these probes only, separated by commas (an ablation)")
    parser.add_argument("--no-alternatives", action="store_true", help="leave out all methods but pydrift")
    parser.add_argument("--quick", action="store_true", help="use digits, and one candidate of each kind and strength")
    parser.add_argument("--workers", type=int, default=2, help="run so many processes, of one thread each")
    parser.add_argument(
        "--resume-dir",
        type=Path,
        default=Path("suite"),
        help="keep models and calibrations in this folder; empty it where pydrift's code changes",
    )
    return parser


def chosen_candidates(data: DataSet, quick: bool) -> list[Candidate]:
    """Returns all candidates of a data set, or one of each kind and strength, all of the first base."""
    found = candidates(data)
    if not quick:
        return found
    first = {(c.kind, c.strength): c for c in reversed(found)}
    return [replace(c, base=0) for c in found if first[c.kind, c.strength] is c]


def calibrate_base(options: argparse.Namespace, data: DataSet, mode: str, base: int, folder: Path) -> Calibration:
    """Returns the calibration of a base on the whole pool of training data.

    It is kept in a folder named after what it depends on. Shadows depend neither on how many others there are nor on
    what is done with them. So those that DriftAuditor would train are trained once, SHADOWS of them or more.
    DriftAuditor gets them as if the user's own training had made them.
    """
    trained_count = max(options.shadows, SHADOWS)
    file = base_job(data, base).file(folder)
    made_from = [file.name, mode, options.shadows, options.restarts, options.recipes, Calibration.format.schema_version]
    where = folder / f"calibration-{_hash(made_from)}"
    if not (where / "MANIFEST.json").exists():
        images = load_data(data.source)
        bank = train_shadows(
            file,
            images,
            trained_count,
            update_mode=mode,
            draw=update_draw(len(images), None, data.size),  # candidates are drawn from the same images
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
            train=lambda *_: next(trained),  # DriftAuditor asks for one after the other
            size=data.size,
            device="cpu",
        )
        auditor.fit(images).save(where)
    return Calibration.load(where)


def _hash(made_from: list[Any]) -> str:
    return sha256(repr(made_from).encode()).hexdigest()[:16]


def judge_base(options: argparse.Namespace, data: DataSet, mode: str, base: int) -> list[dict[str, Any]]:
    """Returns what every method says of every candidate of one base."""
    torch.set_num_threads(1)
    folder = options.resume_dir / data.name
    fitted = calibrate_base(options, data, mode, base, folder)
    test = load_data(data.source, "test")
    models = [freeze(m, fitted.input_shape, CPU) for m in (fitted.base.module, *fitted.shadows)]
    of_known = reference_responses(models, test, lambda: None)
    alternatives = Alternatives(fitted.base.module, test)
    rows = []
    for candidate in chosen_candidates(data, options.quick):
        if candidate.base != base:
            continue
        module = load_model(candidate_job(data, mode, candidate, folder).file(folder)).module
        began = time.process_time()
        with exact_arithmetic():
            methods = _verdicts(options, fitted, models, of_known, module, test)
        row: dict[str, Any] = {"candidate": asdict(candidate), "judging_s": time.process_time() - began}
        if not options.no_alternatives:
            found = alternatives.findings(module, candidate.drift, candidate.seed)
            methods |= {name: asdict(finding) for name, finding in found.items()}
        rows.append({**row, "methods": methods})
    return rows


def _verdicts(
    options: argparse.Namespace,
    fitted: Calibration,
    models: list[Any],
    of_known: Responses,
    module: torch.nn.Module,
    test: LabelledImages,
) -> dict[str, Any]:
    """Returns pydrift's verdicts without and with reference data, as DriftAuditor.compare makes them.

    Two things that it adds are left out. There a model that is the base itself is stable, and a base unlike its shadows
    leaves all classes inconclusive.
    """
    candidate = freeze(module, fitted.input_shape, CPU)
    gray = fitted.attack.invert(candidate, fitted.restarts, fitted.seed)
    of_candidate, confidence = candidate_responses(models, candidate, fitted.consensus, gray.images, lambda: None)
    recognition = fitted.compare_recognition(confidence, gray)
    probes = options.probes.split(",") if options.probes else list(of_candidate)
    benign, own = ({probe: found[probe] for probe in probes} for found in (fitted.responses, of_candidate))
    of_data = select_models(reference_responses([candidate], test, lambda: None), 0)
    found = {}
    for name, known, responses in ((OURS, benign, own), (WITH_DATA, benign | of_known, own | of_data)):
        shadows = select_models(known, slice(1, None))
        evidence = Evidence(shadows, responses, fitted.confidence, fitted.class_names, recognition=recognition)
        verdict = decide(evidence, ALPHA)
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
    """Returns what every method says of every candidate of one data set and update mode."""
    folder, wanted = options.resume_dir / data.name, chosen_candidates(data, options.quick)
    bases = sorted({c.base for c in wanted})
    list(train_all([base_job(data, b) for b in bases], folder, options.workers))
    list(train_all([candidate_job(data, mode, c, folder) for c in wanted], folder, options.workers))
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        return [row for rows in pool.map(partial(judge_base, options, data, mode), bases) for row in rows]


def main() -> None:
    options = suite_parser().parse_args()
    sets = datasets(options.data)
    cells = []
    for name in options.set or (["digits"] if options.quick else list(sets)):
        for mode in options.update_mode or UPDATE_MODES:
            cells.append({"set": name, "update_mode": mode, "rows": cell(options, sets[name], mode)})
            print_tables(cells[-1])
            if options.json is not None:
                stated = {k: str(v) for k, v in vars(options).items() if k not in ("data", "resume_dir", "json")}
                result = {"machine": machine(CPU), "options": stated, "cells": cells}
                text = json.dumps(_rounded(result), allow_nan=False, sort_keys=True, separators=(",", ":"))
                write_atomic(options.json, text.replace(f":{options.data},", ":data,").encode())


def _rounded(value: Any) -> Any:
    """Rounds all numbers to five digits. The tables need no more, and a file has a hundred thousand numbers."""
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(part) for part in value]
    return float(f"{value:.5g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
