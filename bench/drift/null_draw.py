"""False alarms and power where only the base's own training images are at hand, and updates are trained on others.

The base has seen 720 of scikit-learn's digits, which are also the reference data; updates are trained on the same
images, on half of them and as many others, or on others only. Two draws of what a shadow sees are compared: a third of
the images (the default for retrained ones), and a bootstrap of all of them (for fine-tuned ones).

    python bench/null_draw.py [--mode retrain|finetune] [--json FILE]
"""

import argparse
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.common.harness import machine
from pydrift import DriftAuditor, load_data
from pydrift.core.store import check_writable, write_json
from pydrift.data import plant
from pydrift.models.file import load_model
from pydrift.stats.intervals import clopper_pearson
from pydrift.training.train_model import train_model

ARCH, SIZE, BASES, UPDATES = "mlp:1x8x8:48:10", 720, 6, 5
DRAWS = {"a third": SIZE // 3, "bootstrap": SIZE}  # size=
HONEST = ("the same images", "half of them others", "all others")
DRIFTED = {  # of classes a and b, on other images
    "a quarter of two classes exchanged": "swap:{a},{b},.25",
    "a quarter of a class labelled as another": "relabel:{a},{b},.25",
    "a class at .6 of its brightness": "darken:{a},.6",
    "two classes made one": "relabel:{a},{b},1",
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mode", action="append", choices=("retrain", "finetune"), help="default: both")
    parser.add_argument("--workers", type=int, default=2, help="processes, of one thread each")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json is not None:
        check_writable(options.json)
    results = {}
    for mode in options.mode or ("retrain", "finetune"):
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            rows = [row for found in pool.map(of_base, [mode] * BASES, range(BASES)) for row in found]
        results[mode] = rows
        print(f"{mode}: drift found")
        for kind in (*HONEST, *DRIFTED):
            parts = []
            for draw in DRAWS:
                verdicts = [row["verdict"] for row in rows if (row["kind"], row["draw"]) == (kind, draw)]
                found = verdicts.count("drift")
                low, high = clopper_pearson(found, len(verdicts))
                parts.append(f"{draw}: {found} of {len(verdicts)} [{low:.0%}, {high:.0%}]")
            print(f"  {kind:42}", "   ".join(parts), flush=True)
    if options.json is not None:
        write_json(options.json, {"machine": machine(torch.device("cpu")), "rows": results})


def of_base(mode: str, base: int) -> list[dict[str, Any]]:
    torch.set_num_threads(1)
    data = load_data("digits")
    order = np.random.default_rng(base).permutation(len(data))
    own, others = order[:SIZE], order[SIZE : 2 * SIZE]
    rows = []
    with TemporaryDirectory() as folder:
        file = Path(folder) / "base.safetensors"
        train_model(ARCH, data.subset(torch.from_numpy(own)), seed=base).save(file)
        init = load_model(file) if mode == "finetune" else None
        auditors = {
            draw: DriftAuditor(file, update_mode=mode, seed=base, size=size, device="cpu").fit(
                data.subset(torch.from_numpy(own))
            )
            for draw, size in DRAWS.items()
        }
        for i in range(UPDATES):
            rng = np.random.default_rng([base, i])
            mixed = np.concatenate([rng.choice(side, SIZE // 2, replace=False) for side in (own, others)])
            a, b = rng.choice(data.num_classes, 2, replace=False)
            seen = dict(zip(HONEST, (own, mixed, others), strict=True)) | dict.fromkeys(DRIFTED, others)
            for kind, chosen in seen.items():
                images = data.subset(torch.from_numpy(chosen))
                if kind in DRIFTED:
                    images = plant(images, DRIFTED[kind].format(a=a, b=b), i, "train")
                module = train_model(ARCH, images, seed=1000 + 100 * base + i, init=init).module
                for draw, auditor in auditors.items():
                    report = auditor.compare(module)
                    rows.append(
                        {"base": base, "kind": kind, "draw": draw, "verdict": report.verdict, "p": report.p_value}
                    )
    return rows


if __name__ == "__main__":
    main()
