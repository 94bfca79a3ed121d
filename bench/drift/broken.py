"""Does any broken model pass as stable?

Each audit asks about the base with one thing broken: all weights 0, weights drawn at random, dead hidden units,
a class that is never answered, logits negated, labels permuted, or two classes exchanged. The problems are digits of
two, three and ten classes, and pairs of digits side by side, of a hundred. Every candidate is judged by the shadows of
the base's recipe, by those of varied recipes, and as one of unknown recipe, at four levels.

    python -m bench.drift.broken --json bench/results/drift_broken.json
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # numpy reads this when it is imported
import copy
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import nn

from bench.common.harness import write_result
from bench.common.options import script_parser
from pydrift import DriftAuditor, load_data
from pydrift.data import LabelledImages
from pydrift.training.train_model import train_model

CLASSES = (2, 3, 10, 100)
LEVELS = (0.05, 0.01, 1e-3, 1e-4)
HIDDEN = 48


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--classes", type=int, nargs="*", default=list(CLASSES), help="problems of so many classes")
    parser.add_argument("--shadows", type=int, nargs="*", default=[12, 32], help="calibrate on so many of each kind")
    parser.add_argument("--update-mode", nargs="*", default=["retrain", "finetune"], help="try these modes")
    options = parser.parse_args()
    rows: list[dict[str, Any]] = []
    for classes in options.classes:
        data = problem(classes)
        side = "x".join(map(str, data.input_shape))
        base = train_model(f"mlp:{side}:{HIDDEN}:{classes}", data, seed=1, size=2 * len(data) // 3).module
        for mode in options.update_mode:
            for shadows in options.shadows:
                auditor = DriftAuditor(base, shadows, mode, seed=1, device="cpu").fit(data)
                for kind, model in broken(base, classes):
                    rows += judge(auditor, model, {"classes": classes, "mode": mode, "shadows": shadows, "kind": kind})
                counts = Counter(row["verdict"] for row in rows[-len(LEVELS) * 3 * len(list(broken(base, classes))) :])
                print(f"{classes} classes, {mode}, {shadows} shadows: {dict(counts)}", flush=True)
                write_result(options.json, torch.device("cpu"), rows=rows)
    stable = sum(row["verdict"] == "stable" for row in rows)
    print(f"{stable} of {len(rows)} audits of broken models are stable")


def problem(classes: int) -> LabelledImages:
    """Returns the first digits, or of 100 classes pairs of digits side by side."""
    digits = load_data("digits")
    if classes <= 10:
        kept = torch.nonzero(digits.y < classes).flatten()
        names = tuple(map(str, range(classes)))
        return LabelledImages(digits.x[kept], digits.y[kept], names, f"digits below {classes}")
    rng = np.random.default_rng(0)
    of_class = [torch.nonzero(digits.y == c).flatten().numpy() for c in range(10)]
    pairs, labels = [], []
    for c in range(classes):
        left, right = (digits.x[torch.from_numpy(rng.choice(of_class[d], 60))] for d in divmod(c, 10))
        pairs.append(torch.cat([left, right], dim=3))
        labels += [c] * 60
    return LabelledImages(torch.cat(pairs), torch.tensor(labels), tuple(map(str, range(classes))), "pairs of digits")


def broken(base: nn.Module, classes: int) -> Iterator[tuple[str, nn.Module]]:
    """Yields broken copies of the base."""
    for kind in ("all weights 0", "random weights", "dead units", "a class never answered", "logits negated"):
        yield kind, _broken(base, kind)
    last = [m for m in base.modules() if isinstance(m, nn.Linear)][-1]
    for kind, order in (("labels permuted", torch.arange(classes).roll(1)), ("two exchanged", _exchanged(classes))):
        model = copy.deepcopy(base)
        changed = [m for m in model.modules() if isinstance(m, nn.Linear)][-1]
        with torch.no_grad():
            changed.weight.copy_(last.weight[order])
            changed.bias.copy_(last.bias[order])
        yield kind, model


def _broken(base: nn.Module, kind: str) -> nn.Module:
    model = copy.deepcopy(base)
    layers = [m for m in model.modules() if isinstance(m, nn.Linear)]
    with torch.no_grad():
        if kind == "all weights 0":
            for parameter in model.parameters():
                parameter.zero_()
        elif kind == "random weights":
            torch.manual_seed(0)
            for layer in layers:
                layer.reset_parameters()
        elif kind == "dead units":
            layers[0].bias.fill_(-100)
        elif kind == "a class never answered":
            layers[-1].bias[0] = -100
        else:
            layers[-1].weight.neg_()
            layers[-1].bias.neg_()
    return model


def _exchanged(classes: int) -> torch.Tensor:
    order = torch.arange(classes)
    order[[0, 1]] = order[[1, 0]]
    return order


def judge(auditor: DriftAuditor, model: nn.Module, about: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yields the verdict by each null and at each level."""
    for recipe, null in (("same", "same"), ("same", "varied"), (None, "unknown")):
        fitted = auditor.calibration
        kinds = {k: n for k, n in fitted.nulls.items() if null in ("unknown", k)}
        one = copy.copy(auditor)
        one._calibration = type(fitted)(**{**vars(fitted), "nulls": kinds})  # only the null that is asked for
        for level in LEVELS:
            report = one.compare(model, alpha=level, recipe=recipe)
            yield {**about, "null": null, "alpha": level, "verdict": report.verdict, "p": report.p_value}


if __name__ == "__main__":
    main()
