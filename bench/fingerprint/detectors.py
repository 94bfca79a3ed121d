"""Which images does a model not know? Measures NeuralFP and the other detectors on real data, and what scoring costs.

For each data set a model is trained and its features are collected once. Every detector is fitted to them, and
calibrated on images that the model has not seen. Then all score the same sets: other data, noise, and adversarial
examples of the model's own test images. No detector sees an outlier before it scores it. Without --data only digits can
be measured, against noise. The throughput is CPU time of one thread, in turns with a plain forward pass of the same
images.

    python -m bench.fingerprint.detectors --data DIR --model mnist [--seed S]... [--json FILE] [--quick]
"""

import argparse
import statistics
import sys
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from bench.common.harness import ratio, time_in_turns, write_result
from bench.common.options import script_parser
from bench.fingerprint.gan import dcgan_images
from bench.fingerprint.outliers import NAMES, adversarial_sets, in_blocks, outlier_sets, source
from pydrift.core.parallel import one_intra_op_thread
from pydrift.data import LabelledImages, load_data
from pydrift.fingerprint import (
    DETECTORS,
    Conformal,
    Detector,
    FeatureExtractor,
    Features,
    Fitted,
    Needs,
    select_detector,
    separation,
)
from pydrift.fingerprint.fit import MAX_FITTED, MAX_HELD_OUT
from pydrift.models.classifier import exact_arithmetic
from pydrift.models.recipe import TrainingRecipe
from pydrift.training.train_model import train_model


@dataclass(frozen=True)
class Setting:
    """How a model is trained. It sees `size` images, and the others calibrate the detectors."""

    arch: str
    size: int
    epochs: int


SETTINGS = {
    "mnist": Setting("convnet:1x28x28:16,32:64:10", 50_000, 5),
    "mnist-mlp": Setting("mlp:1x28x28:256-128:10", 50_000, 5),
    "fashion-mnist": Setting("convnet:1x28x28:16,32:64:10", 50_000, 5),
    "cifar10": Setting("convnet:3x32x32:32,64,128:128:10", 40_000, 8),
    "digits": Setting("convnet:1x8x8:16,32:64:10", 1_000, 0),
}


def arguments() -> argparse.Namespace:
    parser = script_parser(__doc__)
    parser.add_argument(
        "--data", type=Path, help="read MNIST, FashionMNIST, cifar-10-batches-py and olivetti.npz in this folder"
    )
    parser.add_argument("--model", action="append", choices=list(SETTINGS), help="train this model; default: digits")
    parser.add_argument("--detector", action="append", choices=list(DETECTORS), help="fit this detector; default: all")
    parser.add_argument("--seed", type=int, action="append", help="use this seed; may be repeated. Default: 0")
    parser.add_argument("--most", type=int, default=2000, help="score so many images of each outlier set")
    parser.add_argument("--inliers", type=int, default=10_000, help="score so many test images of the model's own set")
    parser.add_argument("--epochs", type=int, help="train every model for so many epochs")
    parser.add_argument("--rounds", type=int, default=9, help="time so many rounds; 0 leaves out the throughput")
    parser.add_argument("--gan-steps", type=int, default=0, help="train a DCGAN for so many steps; 0 leaves it out")
    parser.add_argument("--quick", action="store_true", help="train for one epoch and score 500 images of a set")
    options = parser.parse_args()
    if options.quick:
        options.most, options.inliers, options.epochs, options.rounds = 500, 1000, 1, 3
    options.model, options.seed = options.model or ["digits"], options.seed or [0]
    if options.data is None and options.model != ["digits"]:
        parser.error("--data is needed for all models but digits")
    return options


def data_of(name: str, options: argparse.Namespace, split: str) -> LabelledImages:
    """Returns a split of the data set that a model is trained on."""
    return load_data(source(name.removesuffix("-mlp"), options.data), split)


def sets(
    name: str, extractor: FeatureExtractor, module: torch.nn.Module, test: LabelledImages, options: argparse.Namespace
) -> Iterator[tuple[str, torch.Tensor, float | None]]:
    """Yields name and images of each set, and how often an attack succeeded. None where the set is no attack."""
    own = name.removesuffix("-mlp")
    if options.data is not None:
        for outliers, x in outlier_sets(own, extractor.input_shape, options.data, options.most, seed=0):
            yield outliers, x, None
    else:
        generator = torch.Generator().manual_seed(0)
        yield "uniform noise", torch.rand((options.most, *extractor.input_shape), generator=generator), None
    some = test.subset(range(min(options.most, len(test))))
    for attacked in adversarial_sets(in_blocks(module), some.x, some.y):
        yield attacked.name, attacked.x, attacked.success
    if options.gan_steps:
        images = data_of(name, options, "train").x
        yield "DCGAN", dcgan_images(images, options.gan_steps, options.most, seed=0), None


def measure_model(name: str, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """Trains and measures one model.

    Returns its accuracy, how often attacks succeeded, the separations of every detector and set, and the throughput.
    """
    setting = SETTINGS[name]
    train, test = data_of(name, options, "train"), data_of(name, options, "test")
    recipe = TrainingRecipe(epochs=options.epochs or setting.epochs)
    model = train_model(setting.arch, train, size=setting.size, seed=seed, recipe=recipe)
    module = model.module.eval().requires_grad_(False)
    extractor = FeatureExtractor(module, train.input_shape, torch.device("cpu"))
    random = np.random.default_rng(seed)
    unseen = random.permutation(np.setdiff1d(np.arange(len(train)), model.drawn))[:MAX_HELD_OUT]
    fitted_on = train.subset(torch.from_numpy(random.permutation(model.drawn)[:MAX_FITTED]))
    chosen = {key: select_detector(key, seed=seed) for key in options.detector or DETECTORS}
    needs = Needs()
    for detector in chosen.values():
        needs = needs | detector.needs
    features, calibration = extractor.features(fitted_on.x, needs), extractor.features(train.x[unseen], needs)
    inliers = extractor.features(test.x[: options.inliers], needs)
    fitted = {key: detector.fit(features, fitted_on.y) for key, detector in chosen.items()}
    known = {key: (Conformal.of(scores(f, calibration)), scores(f, inliers)) for key, f in fitted.items()}
    accuracy = float((inliers.logits.argmax(dim=1) == test.y[: len(inliers)]).double().mean())
    found: dict[str, dict[str, Any]] = {key: {} for key in fitted}
    successes: dict[str, float] = {}
    for outliers, x, success in sets(name, extractor, module, test, options):
        if success is not None:
            successes[outliers] = success
        seen = extractor.features(x, needs)
        for key, each in fitted.items():
            conformal, own = known[key]
            found[key][outliers] = asdict(separation(own, scores(each, seen), conformal))
    cost = throughput(extractor, chosen, fitted, test.x[:1000], options.rounds) if options.rounds else {}
    return {
        "seed": seed,
        "accuracy": accuracy,
        "held_out": len(unseen),
        "attack_success": successes,
        "detectors": found,
        "throughput": cost,
    }


def scores(fitted: Fitted, features: Features) -> NDArray[np.float64]:
    """Returns a detector's scores, [N]."""
    return fitted.score(features).double().numpy()


def throughput(
    extractor: FeatureExtractor, chosen: dict[str, Detector], fitted: dict[str, Fitted], x: torch.Tensor, rounds: int
) -> dict[str, Any]:
    """Measures images a second, and the time in plain forward passes of the same images in the same blocks."""

    def scoring(key: str) -> Callable[[], object]:
        return lambda: [fitted[key].score(f) for f in extractor.stream([x], chosen[key].needs)]

    calls: dict[str, Callable[[], object]] = {"plain": lambda: [extractor.logits(block) for block in x.split(250)]}
    calls |= {key: scoring(key) for key in fitted}
    samples = time_in_turns(calls, torch.device("cpu"), rounds, slice_s=0)
    return {
        key: {"images_per_s": len(x) / statistics.median(values), "forwards": ratio(samples, key, "plain")}
        for key, values in samples.items()
    }


# ---- Tables


def print_tables(name: str, runs: list[dict[str, Any]]) -> None:
    """Prints tables in Markdown: means over the seeds, with the standard deviation where there are several."""
    accuracy = statistics.mean(run["accuracy"] for run in runs)
    print(f"\n### {name}: {SETTINGS[name].arch}, accuracy {100 * accuracy:.2f} %, {len(runs)} models\n")
    for attack in runs[0]["attack_success"]:
        share = statistics.mean(run["attack_success"][attack] for run in runs)
        print(f"{attack}: {100 * share:.1f} % of the images are no longer classified correctly")
    names = list(runs[0]["detectors"])
    others = list(runs[0]["detectors"][names[0]])
    print("\nAUROC\n")
    print(f"| detector | {' | '.join(others)} | mean |")
    print(f"| --- |{' ---: |' * (len(others) + 1)}")
    for key in names:
        areas = [[run["detectors"][key][other]["auroc"] for other in others] for run in runs]
        cells = [statistics.mean(column) for column in zip(*areas, strict=True)]
        print(
            f"| {key} | {' | '.join(f'{cell:.4f}' for cell in cells)} | {spread([statistics.mean(a) for a in areas])} |"
        )
    means = {key: statistics.mean(s["auroc"] for run in runs for s in run["detectors"][key].values()) for key in names}
    best = max((key for key in names if key != "neuralfp"), key=lambda key: means[key], default=names[0])
    for key in dict.fromkeys(k for k in ("neuralfp", best) if k in names):
        print(f"\n{key}; detection and false alarms at p <= 0.05\n")
        print("| outliers | AUROC | AUPR in | AUPR out | FPR at 95 % TPR | detected | false alarms |")
        print("| --- | --- | --- | --- | --- | --- | --- |")
        for other in others:
            rows = [run["detectors"][key][other] for run in runs]
            figures = ("auroc", "aupr_in", "aupr_out", "fpr_at_95_tpr", "detection", "false_alarms")
            print(f"| {other} | {' | '.join(spread([row[figure] for row in rows]) for figure in figures)} |")
    if runs[0]["throughput"]:
        print("\n| scoring by | images/s | plain forward passes |")
        print("| --- | ---: | ---: |")
        for key in runs[0]["throughput"]:
            rows = [run["throughput"][key] for run in runs]
            speed, cost = (statistics.median(row[f] for row in rows) for f in ("images_per_s", "forwards"))
            print(f"| {key} | {speed:,.0f} | {cost:.2f} |")
    sys.stdout.flush()


def spread(values: list[float]) -> str:
    """Returns the mean as text, with the standard deviation where there are several values."""
    mean = f"{statistics.mean(values):.4f}"
    return mean if len(values) < 2 else f"{mean} ± {statistics.stdev(values):.4f}"


def main() -> int:
    options = arguments()
    result: dict[str, Any] = {
        "options": {k: v for k, v in vars(options).items() if k not in ("json", "data")},
        "models": {},
    }
    with one_intra_op_thread(), exact_arithmetic():
        for name in options.model:
            runs = [measure_model(name, seed, options) for seed in options.seed]
            result["models"][name] = {"setting": asdict(SETTINGS[name]), "runs": runs}
            print_tables(name, runs)
            write_result(options.json, torch.device("cpu"), **result)
    return 0


if __name__ == "__main__":
    assert set(NAMES) <= {*SETTINGS}
    sys.exit(main())
