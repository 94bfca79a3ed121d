"""Are natively trained shadows as good as those that torch trains?

Many of each are trained by the same recipe from different seeds. Every model sees a half of a pool, and the halves are
complementary, as those of shadows are. It is measured on that half and on the test split. The difference of the means
is reported with Welch's 95 % interval, beside the spread over seeds of the models that torch trained.

    python -m bench.shadows.quality --data fashion-mnist:DIR [--json FILE] [--quick]
"""

import argparse
import statistics
import sys
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import torch
from scipy import stats
from torch import nn
from torch.nn import functional as F

from bench.common.harness import write_result
from bench.common.options import script_parser
from pydrift.core.parallel import each
from pydrift.data import LabelledImages, load_data
from pydrift.models.arch import build
from pydrift.models.recipe import TrainingRecipe
from pydrift.shadows import Draw
from pydrift.training import native_program, train, train_many

KINDS = ("torch", "native")
RECIPES = {
    "adam": TrainingRecipe(8, 64, 2e-3),
    "adam, moved images, decay, smoothing": TrainingRecipe(8, 64, 2e-3, 1e-2, 0.1, augment="shift:2"),
    "sgd, one-cycle": TrainingRecipe(8, 64, 0.1, 5e-4, optimizer="sgd", schedule="one-cycle"),
}


def arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="digits", help="use this data set; it needs a train and a test split")
    parser.add_argument("--arch", help="train this architecture; the default is a small convnet, and an MLP for digits")
    parser.add_argument("--models", type=int, default=16, help="train so many models of each kind, an even number")
    parser.add_argument("--size", type=int, default=20_000, help="use a pool of so many images")
    parser.add_argument("--quick", action="store_true", help="measure one recipe on digits")
    options = parser.parse_args()
    if options.quick:
        options.data = "digits"
    if options.models < 4 or options.models % 2:
        parser.error("--models must be an even number of at least 4")
    return options


def train_models(
    kind: str, arch: str, pool: LabelledImages, recipe: TrainingRecipe, drawn: list[np.ndarray], seeds: list[int]
) -> list[nn.Module]:
    """Trains one model for each seed, in torch or natively. Each sees the images of the pool that were drawn for it."""
    starts = [build(arch, seed) for seed in seeds]
    if kind == "native":
        if native_program(starts[0], pool.x, torch.device("cpu")) is None:
            raise SystemExit(f"{arch} cannot be trained natively here; see pydrift doctor")
        recipes = [recipe] * len(seeds)
        return train_many(starts, pool.x, pool.y, drawn, recipes, seeds, device=torch.device("cpu"), built_in=True)

    def one(k: int) -> nn.Module:
        return train(starts[k], pool.x[drawn[k]], pool.y[drawn[k]], recipe, seeds[k], channels_last=True)

    return list(each(one, range(len(starts))))


def quality(model: nn.Module, seen: LabelledImages, test: LabelledImages) -> dict[str, float]:
    """Returns test accuracy and losses of a model."""
    with torch.no_grad():
        logits = {
            name: torch.cat([model(x) for x in part.x.split(512)]) for name, part in (("seen", seen), ("test", test))
        }
    loss = {
        "seen": float(F.cross_entropy(logits["seen"], seen.y)),
        "test": float(F.cross_entropy(logits["test"], test.y)),
    }
    right = float((logits["test"].argmax(1) == test.y).float().mean())
    return {"test accuracy": right, "train-test loss gap": loss["test"] - loss["seen"], "train loss": loss["seen"]}


def compare_kinds(values: dict[str, list[float]]) -> dict[str, Any]:
    """Returns means, standard deviations and the difference, native less torch, with Welch's interval."""
    welch = stats.ttest_ind(values["native"], values["torch"], equal_var=False)
    interval = welch.confidence_interval(0.95)
    difference = statistics.mean(values["native"]) - statistics.mean(values["torch"])
    spread = statistics.stdev(values["torch"])
    return {
        **{kind: {"mean": statistics.mean(values[kind]), "sd": statistics.stdev(values[kind])} for kind in KINDS},
        "difference": difference,
        "interval": [float(interval.low), float(interval.high)],
        "p_value": float(welch.pvalue),
        "within_spread": abs(difference) <= spread,
        "interval_holds_zero": bool(interval.low <= 0 <= interval.high),
        "each": values,
    }


def measure(
    arch: str, pool: LabelledImages, test: LabelledImages, recipe: TrainingRecipe, models: int
) -> dict[str, Any]:
    """Trains and compares both kinds by one recipe."""
    rows: dict[str, list[dict[str, float]]] = {}
    seconds: dict[str, float] = {}
    for i, kind in enumerate(KINDS):
        drawn = [Draw("halves").indices(i, len(pool), k) for k in range(models)]
        start = time.perf_counter()
        made = train_models(kind, arch, pool, recipe, drawn, [1000 * i + k for k in range(models)])
        seconds[kind] = time.perf_counter() - start
        rows[kind] = [quality(m, pool.subset(torch.from_numpy(d)), test) for m, d in zip(made, drawn, strict=True)]
    columns = {key: {kind: [row[key] for row in rows[kind]] for kind in KINDS} for key in rows["torch"][0]}
    return {
        "recipe": asdict(recipe),
        "seconds": seconds,
        **{name: compare_kinds(values) for name, values in columns.items()},
    }


def print_rows(name: str, row: dict[str, Any]) -> None:
    """Prints the rows of one recipe, in Markdown."""
    for key in ("test accuracy", "train-test loss gap", "train loss"):
        part = row[key]
        cells = [f"{part[kind]['mean']:.4f} ± {part[kind]['sd']:.4f}" for kind in KINDS]
        low, high = part["interval"]
        cells.append(f"{part['difference']:+.4f} [{low:+.4f}, {high:+.4f}]")
        cells += ["yes" if part[test] else "no" for test in ("within_spread", "interval_holds_zero")]
        print(f"| {name} | {key} | {' | '.join(cells)} |")
    sys.stdout.flush()


def main() -> None:
    options = arguments()
    pool, test = load_data(options.data), load_data(options.data, "test")
    pool = pool.subset(np.random.default_rng(0).permutation(len(pool))[: options.size].tolist())
    channels, height, width = pool.input_shape
    shape = f"{channels}x{height}x{width}"
    small = f"mlp:{shape}:64:10" if options.data == "digits" else f"convnet:{shape}:8,16:64:10"
    arch = options.arch or small
    result: dict[str, Any] = {
        "data": {"source": options.data.partition(":")[0], "images": len(pool), "test_images": len(test)},
        "arch": arch,
        "models": options.models,
        "recipes": {},
    }
    print(f"{arch}, {options.models} models of each kind, each on half of {len(pool)} images\n")
    print("| recipe | | torch | native | native - torch [95 %] | within the spread | interval holds 0 |")
    print("| --- | --- | --- | --- | --- | --- | --- |")
    for name, recipe in list(RECIPES.items())[: 1 if options.quick else None]:
        recipe = replace(recipe, epochs=0) if options.data == "digits" else recipe  # 0: as many steps, of few images
        result["recipes"][name] = measure(arch, pool, test, recipe, options.models)
        print_rows(name, result["recipes"][name])
        write_result(options.json, torch.device("cpu"), **result)
    for name, row in result["recipes"].items():
        print(f"\n{name}: torch {row['seconds']['torch']:.0f} s, native {row['seconds']['native']:.0f} s (wall time)")


if __name__ == "__main__":
    main()
