"""How often the verdict cries wolf, and what it finds: many random audits among models that are all benign.

Trains `--models` benign models (each on its own draw of the data) and one model per `--plant`, inverts all of them
once, and then plays audits: one benign model is the base, K others are the shadows, another benign one (or a drifted
one) is the new model. The audits share their models, so the rates are estimates for this pool, not independent trials.

    python bench/bench_false_alarms.py --data digits --arch mlp:1x8x8:48:10 --size 1000 --plant swap:3,8
"""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _harness import machine
from scipy import stats
from torch import nn

from pydrift.classifier import freeze
from pydrift.data import LabelledImages, load_data
from pydrift.gray import GrayData
from pydrift.inversion import GradientAscent
from pydrift.membership import recognise
from pydrift.modelfile import load_model
from pydrift.parallel import each
from pydrift.progress import Progress, for_terminal
from pydrift.store import RunFolder, to_strict_json, write_atomic
from pydrift.trainer import train_model
from pydrift.verdict import Verdict, judge


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="digits")
    parser.add_argument("--arch", default="mlp:1x8x8:48:10")
    parser.add_argument("--size", type=int, default=1000, help="images each model sees")
    parser.add_argument("--models", type=int, default=40, help="benign models")
    parser.add_argument("--plant", action="append", default=[], help="a drift; may be given several times")
    parser.add_argument("--shadows", type=int, default=16)
    parser.add_argument("--restarts", type=int, default=16)
    parser.add_argument("--audits", type=int, default=400, help="random audits of a benign model, and of each drift")
    parser.add_argument("--alpha", type=float, default=0.05)
    parser.add_argument("--work", type=Path, help="folder for finished models and gray data")
    parser.add_argument("--json", type=Path)
    return parser.parse_args()


def measure(options: argparse.Namespace, data: LabelledImages, progress: Progress) -> tuple[np.ndarray, np.ndarray]:
    """-> margins [models, models, classes] and own confidences [models, classes]; benign models first, then drifted."""
    plans = [None] * options.models + options.plant
    plan = {k: str(v) for k, v in vars(options).items() if k in ("data", "arch", "size", "models", "plant", "restarts")}
    with RunFolder(options.work, plan) as run, progress:

        def made(i: int) -> nn.Module:
            path = None if options.work is None else options.work / f"model-{i}.safetensors"
            if path is not None and path.exists():
                module = load_model(path).module
            else:
                trained = train_model(options.arch, data, size=options.size, seed=1000 + i, drift=plans[i])
                if path is not None:
                    trained.save(path)
                module = trained.module
            return module

        def inverted(i: int) -> GrayData:
            saved = run.get(f"gray/{i}")
            if saved is None:
                gray = GradientAscent().invert(classifiers[i], options.restarts, seed=0)
                run.put(f"gray/{i}", {name: torch.from_numpy(array) for name, array in vars(gray).items()})
                return gray
            return GrayData(**{name: tensor.numpy() for name, tensor in saved.items()})

        def all_of(name: str, function: Callable[[int], Any]) -> list[Any]:
            progress.phase(name, len(plans))
            results = []
            for result in each(function, range(len(plans))):
                results.append(result)
                progress.advance()
            return results

        classifiers = [freeze(m, data.input_shape, torch.device("cpu")) for m in all_of("training", made)]
        grays = all_of("inverting", inverted)
        seen = all_of("asking", lambda i: recognise([classifiers[i]], grays)["margin"][0])
    return np.stack(seen), np.stack([g.confidence.mean(axis=1, dtype=np.float64) for g in grays])


def main() -> None:
    options = arguments()
    data = load_data(options.data)
    margins, confidence = measure(options, data, for_terminal())
    names = [str(c) for c in range(data.num_classes)]
    random = np.random.default_rng(0)

    def audit(base: int, shadows: np.ndarray, new: int) -> Verdict:
        chosen = [base, *shadows, new]
        return judge(margins[np.ix_(chosen, chosen)], confidence[chosen], names, options.alpha)

    splits = [random.permutation(options.models)[: options.shadows + 2] for _ in range(options.audits)]
    verdicts = [audit(s[0], s[1:-1], s[-1]) for s in splits]
    alarms = sum(v.verdict == "drift" for v in verdicts)
    interval = stats.binomtest(alarms, len(verdicts)).proportion_ci(method="exact")
    p_values = np.array([v.p_value for v in verdicts if v.p_value is not None])
    result: dict[str, Any] = {
        "options": {k: v for k, v in vars(options).items() if k not in ("work", "json")},
        "machine": machine(torch.device("cpu")),
        "false_alarm_rate": alarms / len(verdicts),
        "false_alarm_interval": [interval.low, interval.high],
        "share_of_p_below": {str(p): float((p_values < p).mean()) for p in (0.01, 0.05, 0.2, 0.5)},
        "inconclusive": sum(v.verdict == "inconclusive" for v in verdicts) / len(verdicts),
        "drifts": {},
    }
    print(f"benign: {alarms} of {len(verdicts)} audits cry drift at alpha {options.alpha:g}")
    for i, drift in enumerate(options.plant):
        found = [audit(s[0], s[1:-1], options.models + i) for s in splits]
        detected = float(np.mean([v.verdict == "drift" for v in found]))
        worst = [min((c for c in v.classes if c.p_value is not None), key=lambda c: c.p_value or 0.0) for v in found]
        planted = [a for a in drift.partition(":")[2].split(",") if a in names]
        first = float(np.mean([c.name in planted for c in worst])) if planted else None
        result["drifts"][drift] = {"detected": detected, "planted_class_first": first}
        named = "" if first is None else f", a planted class first in {first:.0%}"
        print(f"{drift}: found in {detected:.0%}{named}")
    if options.json is not None:
        write_atomic(options.json, to_strict_json(result).encode())


if __name__ == "__main__":
    main()
