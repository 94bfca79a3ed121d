"""How well does pydrift separate drifted from benign candidates, and how well do the methods without it?

The suite trains base models, benign candidates, candidates with drifts planted at three strengths, by the base's recipe
and by changed ones, and candidates whose recipe no shadow has. For each base it calibrates on several draws of shadows.
Every candidate is judged by the shadows of its recipe where it has the base's, and as one of unknown recipe. Models and
calibrations are kept in `--resume-dir` and not made twice. bench/drift/protocol.md says what was fixed before.

    python -m bench.drift.suite --data data --set digits --json bench/results/drift_suite_digits.json
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
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.digest import digest_of
from bench.common.harness import machine
from bench.common.options import script_parser
from bench.drift.alternatives import Alternatives
from bench.drift.candidates import DRIFT, OUTSIDE, RECIPE, SAME, UPDATE_MODES, Candidate, DataSet, candidates, datasets
from bench.drift.models import base_job, candidate_job, train_all
from bench.drift.summary import OURS, OURS_UNKNOWN, OURS_VARIED, WITH_DATA, Row
from bench.drift.tables import print_cell
from pydrift import DriftAuditor
from pydrift.core.files import write_atomic
from pydrift.data import LabelledImages, load_data
from pydrift.drift.calibration import Calibration
from pydrift.drift.responses import candidate_responses, reference_responses, select_models
from pydrift.drift.verdict import Evidence, decide
from pydrift.inversion.gray import GrayData
from pydrift.models.classifier import exact_arithmetic, freeze
from pydrift.models.file import load_model

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
    parser.add_argument("--base", type=int, action="append", help="only this base; may be repeated. Default: all")
    parser.add_argument("--draws", type=int, default=6, help="calibrate each base so often, each time on other shadows")
    parser.add_argument("--benign", type=int, help="so many benign candidates of a base and group")
    parser.add_argument("--shadows", type=int, default=SHADOWS, help="calibrate on so many shadows of each kind")
    parser.add_argument("--restarts", type=int, default=RESTARTS, help="invert so many gray images of a class")
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


def chosen_candidates(options: argparse.Namespace, data: DataSet) -> list[Candidate]:
    """Returns all candidates of the chosen bases, or one of each kind and strength, all of the first base."""
    if options.quick:
        found = candidates(data, 4)
        first = {(c.group, c.kind, c.strength): c for c in reversed(found)}
        kept = [c for c in found if c.benign or first[c.group, c.kind, c.strength] is c]
        return [replace(c, base=0) for c in kept if not c.benign or c.base == 0]
    return [c for c in candidates(data, options.benign) if options.base is None or c.base in options.base]


def calibrate_base(
    options: argparse.Namespace, data: DataSet, mode: str, base: int, draw: int, folder: Path
) -> Calibration:
    """Returns a calibration of a base on the whole pool of training data, with both nulls.

    It is kept in a folder named after what it depends on.
    """
    file = base_job(data, base).file(folder)
    made_from = {"base": file.name, "mode": mode, "shadows": options.shadows, "restarts": options.restarts}
    made_from |= {"draw": draw, "version": Calibration.format.schema_version}
    where = folder / f"calibration-{digest_of(made_from, 16)}"
    if not (where / "MANIFEST.json").exists():
        auditor = DriftAuditor(
            file,
            options.shadows,
            mode,
            options.restarts,
            base + 1000 * draw,
            size=data.size,  # candidates are drawn from the same images
            device="cpu",
            resume_dir=folder / f"work-{where.name}",
        )
        auditor.fit(load_data(data.source)).save(where)
    return Calibration.load(where)


def judge_base(options: argparse.Namespace, data: DataSet, mode: str, base_draw: tuple[int, int]) -> list[Row]:
    """Returns what every method says of every candidate of one base, by one draw of shadows."""
    torch.set_num_threads(1)
    base, draw = base_draw
    folder = options.resume_dir / data.name
    fitted = calibrate_base(options, data, mode, base, draw, folder)
    test = load_data(data.source, "test") if draw == 0 else None
    judges = {kind: Judge(options, fitted, kind, test if kind == "same" else None) for kind in fitted.nulls}
    alternatives = None if test is None or options.no_alternatives else Alternatives(fitted.base.module, test)
    rows: list[Row] = []
    for i, candidate in enumerate(chosen_candidates(options, data)):
        # Benign candidates and outsiders are many. The first draw judges all; each other one another third of the
        # benign, by the shadows of their recipe alone.
        late = candidate.group == OUTSIDE and draw > 0
        if candidate.base != base or late or (candidate.benign and draw > 0 and (i // data.bases + draw) % 3):
            continue
        module = load_model(candidate_job(data, mode, candidate, folder).file(folder)).module
        began = time.process_time()
        methods: dict[str, Any] = {}
        with exact_arithmetic():
            gray = fitted.attack.invert(freeze(module, fitted.input_shape, CPU), fitted.restarts, fitted.seed)
            if candidate.recipe == RECIPE:
                methods |= judges["same"].verdicts(module, gray, known=True)
            if draw == 0 or candidate.group != SAME:
                methods |= judges["varied"].verdicts(module, gray, known=candidate.group != OUTSIDE)
        row: Row = {"candidate": asdict(candidate), "draw": draw, "judging_s": time.process_time() - began}
        if alternatives is not None and candidate.group in (SAME, DRIFT):
            found = alternatives.findings(module, candidate.drift, candidate.seed)
            methods |= {name: asdict(finding) for name, finding in found.items()}
        rows.append({**row, "methods": methods})
    return rows


class Judge:
    """The verdicts of one null, as DriftAuditor.compare makes them.

    Two things that it adds are left out. There a model that is the base itself is stable, and a base unlike its shadows
    leaves all classes inconclusive.
    """

    def __init__(
        self, options: argparse.Namespace, fitted: Calibration, kind: str, test: LabelledImages | None
    ) -> None:
        self._options, self._fitted, self._kind, self._test = options, fitted, kind, test
        self._null = fitted.nulls[kind]
        self._models = [freeze(m, fitted.input_shape, CPU) for m in (fitted.base.module, *self._null.shadows)]
        self._of_test = {} if test is None else reference_responses(self._models, test, lambda: None)

    def verdicts(self, module: torch.nn.Module, gray: GrayData, known: bool) -> dict[str, Any]:
        """Returns the verdicts without and, where there are any, with test images.

        known  whether its recipe is among the shadows'. If so and they vary, it is also judged as if nobody knew.
        """
        candidate = freeze(module, self._fitted.input_shape, CPU)
        own, confidence = candidate_responses(self._models, candidate, self._null.consensus, gray.images, lambda: None)
        recognition = self._null.compare_recognition(confidence, gray)
        probes = self._options.probes.split(",") if self._options.probes else list(own)
        benign, own = ({probe: found[probe] for probe in probes} for found in (self._null.responses, own))
        asked = [("", benign, own)]
        if self._test is not None:
            of_data = select_models(reference_responses([candidate], self._test, lambda: None), 0)
            asked.append((WITH_DATA, benign | self._of_test, own | of_data))
        found = {}
        for suffix, responses, of_candidate in asked:
            evidence = Evidence(
                select_models(responses, slice(1, None)),
                of_candidate,
                self._null.confidence,
                self._fitted.class_names,
                recognition=recognition,
                varied=self._kind == "varied",
                exchanges=self._null.exchanges,
            )
            if known:
                found[(OURS if self._kind == "same" else OURS_VARIED) + suffix] = self._judge(evidence)
            if self._kind == "varied":
                found[OURS_UNKNOWN + suffix] = self._judge(replace(evidence, recipe_known=False))
        return found

    def _judge(self, evidence: Evidence) -> dict[str, Any]:
        verdict = decide(evidence, ALPHA)
        scores = [-np.inf if c.drift_score is None else c.drift_score for c in verdict.classes]
        return {
            "score": float(max(scores)),
            "p": verdict.p_value,
            "alarm": verdict.verdict == "drift",
            "first": int(np.argmax(scores)),
            "verdict": verdict.verdict,
            "outside": any("outside what was calibrated" in reason for reason in verdict.reasons),
            "named": [c.index for c in verdict.classes if c.verdict == "drift"],
            "base_p_value": self._null.base_p_value,
        }


def cell(options: argparse.Namespace, data: DataSet, mode: str) -> list[Row]:
    """Returns what every method says of every candidate of one data set and update mode."""
    folder, wanted = options.resume_dir / data.name, chosen_candidates(options, data)
    bases = sorted({c.base for c in wanted})
    list(train_all([base_job(data, b) for b in bases], folder, options.workers))
    list(train_all([candidate_job(data, mode, c, folder) for c in wanted], folder, options.workers))
    jobs = [(base, draw) for draw in range(1 if options.quick else options.draws) for base in bases]
    with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
        return [row for rows in pool.map(partial(judge_base, options, data, mode), jobs) for row in rows]


def main() -> None:
    options = suite_parser().parse_args()
    sets = datasets(options.data)
    cells = []
    for name in options.set or (["digits"] if options.quick else list(sets)):
        for mode in options.update_mode or UPDATE_MODES:
            cells.append({"set": name, "update_mode": mode, "rows": cell(options, sets[name], mode)})
            print_cell(cells[-1])
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
