"""Runs every membership attack on targets that are trained well, overfitted, and with differential privacy.

For each kind of training `--shadows` + 2 models are trained, each on a random half of the population. Each in turn is
the target and the others are its shadows, but for the one that saw the other half (see models.py). So many targets cost
as much as one. They share images and shadows. So their spread says how much a figure depends on the target, and not how
exact the mean is. The intervals of the first target's figures say that. On the first targets the black-box attack of
the Adversarial Robustness Toolbox runs beside ours.

    python -m bench.membership.attacks --data cifar10:DIR --resume-dir DIR [--size N] [--json FILE] [--quick]

The toolbox and Opacus are in bench/requirements.txt. Without them a sentence says that their parts are left out.
"""

import argparse
import statistics
import sys
import warnings
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.harness import write_result
from bench.common.options import script_parser
from bench.membership.models import (
    KINDS,
    Kind,
    bank_of,
    describe,
    gap,
    opacus_is_missing,
    scale_epochs,
    shadows_of,
    without,
)
from bench.membership.toolbox import art_black_box, art_is_missing
from pydrift.core.progress import Progress, for_terminal
from pydrift.data import LabelledImages, load_data
from pydrift.membership import ATTACKS, Attack
from pydrift.membership.attacks.boundary import BoundaryDistance
from pydrift.membership.evaluation import evaluate
from pydrift.models.classifier import freeze
from pydrift.shadows import ShadowBank
from pydrift.shadows.statistics import Statistics

ART = {"rf": "ART black-box (random forest)", "nn": "ART black-box (network)", "gb": "ART black-box (boosting)"}
SLOW = ("shokri", "boundary")  # these attack the first targets only
DIGITS = "mlp:1x8x8:64:10"


def arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="digits", help="take the train split of this data set as the population")
    parser.add_argument("--size", type=int, default=0, help="draw so many images of it at random; 0 takes all")
    parser.add_argument("--arch", help="train target and shadows of this architecture")
    parser.add_argument("--kind", action="append", help="train so: convnet (regular), overfit, private; default: all")
    parser.add_argument("--shadows", type=int, default=16, help="use so many shadows for each target")
    parser.add_argument("--private-shadows", type=int, default=6, help="use so many where training is private and slow")
    parser.add_argument("--epochs", type=float, default=1.0, help="train for so many times the epochs of every recipe")
    parser.add_argument("--attack", action="append", choices=list(ATTACKS), help="run this attack; default: all")
    parser.add_argument(
        "--slow-targets", type=int, default=2, help=f"attack so many targets by {', '.join(SLOW)} and the toolbox"
    )
    parser.add_argument("--boundary", type=int, default=1000, help="walk from so many images in the boundary attack")
    parser.add_argument("--art", action="append", choices=list(ART), help="use this model of the toolbox; default: rf")
    parser.add_argument("--seed", type=int, default=0, help="draw and train with this seed")
    parser.add_argument("--resume-dir", type=Path, help="keep finished models here, so that a killed run goes on")
    parser.add_argument("--quick", action="store_true", help="use digits and few shadows, in under two minutes")
    options = parser.parse_args()
    if options.quick:
        options.shadows, options.private_shadows, options.boundary, options.slow_targets = 8, 4, 200, 1
    for count in (options.shadows, options.private_shadows):
        if count < 4 or count % 2:
            parser.error("--shadows and --private-shadows must be even numbers of at least 4")
    return options


# ---- Attacks


def figures(
    name: str, title: str, scores: NDArray[np.float64], member: NDArray[np.bool_], data: LabelledImages, seed: int
) -> dict[str, Any]:
    """Returns the figures of one attack on one target, each with its 95 % interval.

    DeLong's is that of the AUC, and the rates have exact ones.
    """
    result = evaluate(name, title, scores, member, data.y.numpy(), data.num_classes, seed=seed)
    kept = {k: v for k, v in asdict(result).items() if k not in ("name", "title", "roc", "classes", "constant")}
    return {**kept, "images": len(scores)}


def run_attacks(
    suite: dict[str, Attack],
    bank: ShadowBank,
    answers: Statistics,
    data: LabelledImages,
    target: int,
    options: argparse.Namespace,
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields name, title and figures of every attack on one target."""
    y, member = data.y.numpy(), bank.member[target]
    shadow, shadow_member = without(answers, target), shadows_of(bank.member, target)
    own = answers.models(slice(target, target + 1))
    for name, attack in suite.items():
        if name in SLOW and target >= options.slow_targets:
            continue
        fitted = attack.fit(shadow, shadow_member, y)
        if isinstance(attack, BoundaryDistance):
            some = _sample(member, options.boundary, options.seed)
            model = freeze(bank.models()[target], data.input_shape, torch.device("cpu"))
            few = data.subset(torch.from_numpy(some))
            scores = fitted.score(replace(own, distance=attack.distances(model, few.x, few.y)))
            yield name, attack.title, figures(name, attack.title, scores, member[some], few, options.seed)
        else:
            yield name, attack.title, figures(name, attack.title, fitted.score(own), member, data, options.seed)


def run_toolbox(
    bank: ShadowBank, answers: Statistics, data: LabelledImages, target: int, options: argparse.Namespace
) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Yields name, title and figures of the toolbox's attacks.

    Each is fitted in two ways. One is on the target with half of its members known, as in the toolbox's examples. The
    other is on one shadow of which everything is known. Images of the target that an attack was fitted on get no score.
    """
    assert answers.posterior is not None
    posterior, member, y = answers.posterior, bank.member, data.y.numpy()
    half, everything = _sample(member[target], len(data) // 2, options.seed), np.arange(len(data))
    model = bank.models()[target]
    for kind in options.art or ["rf"]:
        for way, source, fitted_on, scored in (
            ("fitted on half of the target's members", target, half, np.setdiff1d(everything, half)),
            ("fitted on one shadow", (target + 2) % len(bank), everything, everything),
        ):
            known = posterior[source, fitted_on], y[fitted_on], member[source, fitted_on]
            scores = art_black_box(model, data, known, (posterior[target, scored], y[scored]), kind)
            title = f"{ART[kind]}, {way}"
            few = data.subset(torch.from_numpy(scored))
            yield title, title, figures(title, title, scores, member[target, scored], few, options.seed)


def _sample(member: NDArray[np.bool_], count: int, seed: int) -> NDArray[np.int64]:
    """Returns the indices of members and of others, half of each."""
    random = np.random.default_rng(seed)
    kinds = (np.flatnonzero(member), np.flatnonzero(~member))
    return np.concatenate([random.permutation(kind)[: max(2, count // 2)] for kind in kinds])


# ---- Tables


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Returns mean and standard deviation over the targets. With one target there is no deviation."""

    def spread(values: list[float]) -> dict[str, float | None]:
        return {"mean": statistics.mean(values), "sd": statistics.stdev(values) if len(values) > 1 else None}

    found = {key: spread([row[key] for row in rows]) for key in ("auc", "balanced_accuracy", "epsilon")}
    for i, point in enumerate(rows[0]["tpr_at_fpr"]):
        found[f"tpr_at_{point['fpr']:g}"] = spread([row["tpr_at_fpr"][i]["tpr"] for row in rows])
    return {"targets": len(rows), **found}


def print_table(name: str, part: dict[str, Any]) -> None:
    """Prints the table of one kind of training, in Markdown."""

    def cell(value: float, interval: list[float], over: dict[str, float | None], percent: bool = False) -> str:
        low, high = interval
        digits, scale = (2, 100) if percent else (3, 1)
        mean = f"; {scale * (over['mean'] or 0.0):.{digits}f}"
        sd = "" if over["sd"] is None else f" ± {scale * over['sd']:.{digits}f}"
        return f"{scale * value:.{digits}f} [{scale * low:.{digits}f}, {scale * high:.{digits}f}]{mean}{sd}"

    print(f"\n### {name}\n")
    for what, values in part["models"].items():
        sd = statistics.stdev(values) if len(values) > 1 else 0.0
        print(f"{what}: {statistics.mean(values):.4f} ± {sd:.4f} over {len(values)} models")
    print("\nFirst target [95 % interval]; mean ± standard deviation over all targets. TPR in %.\n")
    print("| attack | targets | AUC | balanced accuracy | TPR at 0.1 % FPR | TPR at 1 % FPR | epsilon >= |")
    print("| --- | ---: | --- | --- | --- | --- | --- |")
    for title, attack in part["attacks"].items():
        first, over = attack["each"][0], attack["over_targets"]
        cells = [cell(first[key], first[f"{key}_interval"], over[key]) for key in ("auc", "balanced_accuracy")]
        for point in first["tpr_at_fpr"]:
            rate = over[f"tpr_at_{point['fpr']:g}"]
            cells.append(cell(point["tpr"], [point["low"], point["high"]], rate, percent=True))
        sd = "" if over["epsilon"]["sd"] is None else f" ± {over['epsilon']['sd']:.2f}"
        epsilon = f"{first['epsilon']:.2f}; {over['epsilon']['mean']:.2f}{sd}"
        print(f"| {title} | {over['targets']} | {' | '.join(cells)} | {epsilon} |")
    sys.stdout.flush()


def measure(
    name: str, kind: Kind, arch: str, data: LabelledImages, options: argparse.Namespace, progress: Progress
) -> Iterator[dict[str, Any]]:
    """Yields what is known of a kind of training, after each target more."""
    count = 2 + (options.shadows if kind.epsilon is None else options.private_shadows)
    suite = {n: ATTACKS[n] for n in options.attack or ATTACKS}
    with progress:
        bank = bank_of(name, kind, arch, data, count, options.seed, options.resume_dir, progress)
    toolbox = art_is_missing() is None
    posterior = toolbox or any(attack.needs.posterior for attack in suite.values())
    answers = bank.statistics(data.x, data.y, device="cpu", queries=kind.queries, posterior=posterior)
    part: dict[str, Any] = {
        "training": describe(kind),
        "shadows_of_a_target": count - 2,
        "models": gap(bank, answers, data.y.numpy()),
        "attacks": {},
    }
    for target in range(count):
        results = list(run_attacks(suite, bank, answers, data, target, options))
        if toolbox and target < options.slow_targets:
            results += run_toolbox(bank, answers, data, target, options)
        for key, title, row in results:
            attack = part["attacks"].setdefault(key, {"title": title, "each": []})
            attack["each"].append({"target": target, **row})
            attack["over_targets"] = summary(attack["each"])
        yield part


def main() -> int:
    options = arguments()
    data = load_data(options.data)
    if options.size:
        data = data.subset(np.random.default_rng(options.seed).permutation(len(data))[: options.size].tolist())
    source = options.data.partition(":")[0]
    arch = options.arch or ("convnet:3x32x32:16,32,64:128:10" if source == "cifar10" else DIGITS)
    kinds = {name: scale_epochs(kind, options.epochs) for name, kind in KINDS.get(source, KINDS["other"]).items()}
    for reason in filter(None, (art_is_missing(), opacus_is_missing())):
        print(reason, file=sys.stderr)
    result: dict[str, Any] = {
        "options": {k: v for k, v in vars(options).items() if k not in ("resume_dir", "json", "data")},
        "data": {"source": source, "images": len(data), "sha256": data.sha256},
        "arch": arch,
        "kinds": {},
    }
    for name, kind in kinds.items():
        if (options.kind and name not in options.kind) or (kind.epsilon is not None and opacus_is_missing()):
            continue
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # from the toolbox
            for part in measure(name, kind, arch, data, options, for_terminal()):
                result["kinds"][name] = part
                write_result(options.json, torch.device("cpu"), **result)
        print_table(name, result["kinds"][name])
    return 0


if __name__ == "__main__":
    sys.exit(main())
