"""Runs the ownership audit on real thefts. Who is found, with how few private images, and who is accused wrongly?

For each seed a victim is trained, and stolen in every way of suspects.py. All seeds share the independent suspects. A
third of these have the victim's recipe, a third another recipe, and a third another architecture. The ownership audit
decides about all of them, with both embeddings.

    python -m bench.ownership.thefts --data cifar10:DIR --resume-dir DIR [--seeds N] [--embedding NAME] [--json FILE]

Models are kept in --resume-dir, so that a killed run goes on.
"""

import argparse
import statistics
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from bench.common.harness import write_result
from bench.common.intervals import exact_interval
from bench.common.options import script_parser
from bench.ownership.suspects import INDEPENDENT, STOLEN, Model, accuracy, independents, suspects, train_all, victim
from bench.ownership.world import World
from pydrift.core.progress import for_terminal
from pydrift.core.tensors import tensors_digest
from pydrift.models.intake import AuditedModel
from pydrift.ownership import OwnershipReport, SuspectResult, ownership_audit
from pydrift.ownership.roles import Roles

ALPHA = 0.01
SAMPLES = {"min-gd": 12, "blind-walk": 60}  # an image takes MinGD ten times as long
# The number of public images. Both embeddings have the same, so that they share the benign models.
FITTED_AND_ASKED = {"cifar10": 220, "digits": 160}
TESTS = ("knowledge", "agreement", "membership", "confidence: perceptron", "confidence: logistic regression")


def arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="digits", help="use this data set: digits or cifar10:DIR")
    parser.add_argument("--resume-dir", type=Path, required=True, help="keep finished models here")
    parser.add_argument("--seeds", type=int, default=5, help="train so many victims")
    parser.add_argument("--first-seed", type=int, default=0, help="give the first victim this seed")
    parser.add_argument("--embedding", action="append", choices=list(SAMPLES), help="use this embedding; default: all")
    parser.add_argument("--samples", type=int, help=f"ask about so many private images; default: {SAMPLES}")
    parser.add_argument("--benign", type=int, default=100, help="calibrate p on so many independent models")
    parser.add_argument("--workers", type=int, default=2, help="train suspects in so many processes")
    parser.add_argument("--quick", action="store_true", help="use digits and one victim")
    options = parser.parse_args()
    options.embedding = options.embedding or list(SAMPLES)
    if options.quick:
        options.data, options.seeds = "digits", 1
    return options


def main() -> int:
    options = arguments()
    worlds = [World(options.data, options.first_seed + k) for k in range(options.seeds)]
    for name in train_all(worlds, options.resume_dir / "suspects", options.workers):
        print(f"trained {name}", file=sys.stderr)
    rows: list[dict[str, Any]] = []
    for world in worlds:
        rows += list(judged(world, options))
        write_result(options.json, torch.device("cpu"), rows=rows)  # each time, because a long run may be killed
    for embedding in options.embedding:
        of_embedding = [row for row in rows if row["embedding"] == embedding]
        print(f"\n{embedding}, {options.samples or SAMPLES[embedding]} private samples, {options.seeds} victims")
        print_table(of_embedding)
    return 0


def judged(world: World, options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yields a row for each suspect and embedding."""
    folder = options.resume_dir / "suspects"
    owner = victim(world, folder)
    accused = suspects(world, folder)
    accused |= {f"independent-{k}": model for k, model in enumerate(independents(world, folder, INDEPENDENT))}
    found = {name: accuracy(world, owner, model) for name, model in accused.items()}
    for embedding in options.embedding:
        samples = options.samples or SAMPLES[embedding]
        report = ownership_audit(
            as_audited(world, owner),
            {name: as_audited(world, model) for name, model in accused.items()},
            world.images.subset(torch.from_numpy(world.private)),
            world.images.subset(torch.from_numpy(world.public)),
            embedding=embedding,
            samples=samples,
            fit_on=FITTED_AND_ASKED[options.data.partition(":")[0]] - Roles.PUBLIC_PER_PRIVATE * samples,
            independents=options.benign,
            alpha=max(ALPHA, 1 / (options.benign + 1)),
            resume_dir=options.resume_dir / "benign",
            progress=for_terminal(),
        )
        for result in report.suspects:
            model = accused[result.name]
            yield {
                "embedding": embedding,
                "seed": world.seed,
                "suspect": result.name,
                "variant": model.variant,
                "test_accuracy": found[result.name].test,
                "private_accuracy": found[result.name].private,
                "same_answers": found[result.name].agreement,
                **figures(result, report),
            }


def as_audited(world: World, model: Model) -> AuditedModel:
    """Returns a model as the audit takes it."""
    digest = tensors_digest(model.module.state_dict())
    return AuditedModel(model.module, model.kind, digest, model.arch, world.setting.recipe, len(model.trained_on))


def figures(result: SuspectResult, report: OwnershipReport) -> dict[str, Any]:
    """Returns what the audit says of one suspect."""
    return {
        "verdict": result.verdict,
        "p": result.p,
        "queries": result.queries,
        "evidence": {one.name: {k: v for k, v in vars(one).items() if k != "name"} for one in result.evidence},
        "by_samples": [vars(point) for point in result.by_samples],
        "seconds": report.provenance.seconds,
    }


# ---- The table


def print_table(rows: list[dict[str, Any]]) -> None:
    """Prints a line for each kind of suspect, the wrong claims and the queries."""
    print(
        f"{'suspect':32}{'test':>6}{'same':>6}  {'knowledge':>10}{'largest p':>10}{'p <= .01':>9}{'samples':>8}"
        f"  {'agreement':>9}{'p':>8}  {'membership':>10}{'p':>8}"
        f"  {'perceptron':>11}{'Welch p':>8}{'p':>8}  {'logistic':>9}{'Welch p':>8}{'p':>8}"
    )
    for kind in STOLEN:
        print_row(kind, [row for row in rows if row["suspect"] == kind])
    benign = [row for row in rows if row["suspect"].startswith("independent")]
    for variant in sorted({row["variant"] for row in benign}):
        print_row(f"independent, {variant}", [row for row in benign if row["variant"] == variant])
    print("\nwrong claims among independent suspects, at p <= .01 (95 % interval):")
    for test in TESTS:
        for name in ("p_calibrated", "p_welch", "p_harmonic"):
            values = [row["evidence"][test][name] for row in benign]
            if values[0] is not None:
                wrong, (low, high) = claims(values)
                print(f"  {test:32}{name:14}{wrong:4} of {len(values)}  {100 * low:.1f} to {100 * high:.1f} %")
    queries = [row["queries"] for row in rows]
    print(f"queries per suspect: {min(queries)} to {max(queries)}")


def claims(p: list[float]) -> tuple[int, tuple[float, float]]:
    """Returns how many of the p-values claim a theft, with the exact interval of their share."""
    wrong = sum(value <= ALPHA for value in p)
    return wrong, exact_interval(wrong, len(p))


def print_row(name: str, rows: list[dict[str, Any]]) -> None:
    """Prints means over the suspects of one kind, and medians of p."""

    def mean(values: Iterable[float]) -> float:
        return statistics.mean(values)

    def of(test: str, figure: str) -> list[float]:
        return [row["evidence"][test][figure] for row in rows]

    knowledge, *others = TESTS
    p = of(knowledge, "p_calibrated")
    needed = [enough(row) for row in rows]
    few = "-" if any(n is None for n in needed) else str(max(n for n in needed if n is not None))
    line = f"{name:32}{mean(r['test_accuracy'] for r in rows):6.3f}{mean(r['same_answers'] for r in rows):6.3f}  "
    line += f"{mean(of(knowledge, 'effect')):10.2f}{max(p):10.4f}"
    line += f"{sum(value <= ALPHA for value in p):5}/{len(p):3}{few:>8}"
    for test in others:
        line += f"  {mean(of(test, 'effect')):+9.3f}"
        if rows[0]["evidence"][test]["p_welch"] is not None:
            line += f"{np.median(of(test, 'p_welch')):10.4f}"
        line += f"{np.median(of(test, 'p_calibrated')):8.3f}"
    print(line)


def enough(row: Mapping[str, Any]) -> int | None:
    """Returns the fewest private samples from which on the median p is at most ALPHA. None: there are none."""
    found = None
    for point in reversed(row["by_samples"]):
        if point["median"] > ALPHA:
            break
        found = point["samples"]
    return found


if __name__ == "__main__":
    sys.exit(main())
