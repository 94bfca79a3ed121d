"""Measures false alarms and power where candidates are trained on images that nobody has at hand.

The base has seen 720 of scikit-learn's digits, which are also the reference data. Candidates are trained on the same
images, on half of them and as many others, or on others only. Two draws of a shadow's images are compared: a third of
all, and a bootstrap of all. A third is the default for retrained shadows, a bootstrap for fine-tuned ones.

    python -m bench.drift.null_draw [--update-mode retrain|finetune] [--json FILE]
"""

from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch

from bench.common.harness import write_result
from bench.common.intervals import exact_interval
from bench.common.options import script_parser
from bench.drift.candidates import UPDATE_MODES
from pydrift import DriftAuditor, load_data
from pydrift.data import plant
from pydrift.models.file import load_model
from pydrift.training.train_model import train_model

ARCH, SIZE, BASES, CANDIDATES = "mlp:1x8x8:48:10", 720, 6, 5
DRAWS = {"a third": SIZE // 3, "bootstrap": SIZE}  # size=
BENIGN = ("the same images", "half of them others", "all others")
DRIFTED = {  # of classes a and b, on other images
    "a quarter of two classes exchanged": "swap:{a},{b},.25",
    "a quarter of a class labelled as another": "relabel:{a},{b},.25",
    "a class at .6 of its brightness": "darken:{a},.6",
    "two classes made one": "relabel:{a},{b},1",
}


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--update-mode", action="append", choices=UPDATE_MODES, help="use this mode; default: both")
    parser.add_argument("--workers", type=int, default=2, help="run so many processes, of one thread each")
    options = parser.parse_args()
    results = {}
    for mode in options.update_mode or UPDATE_MODES:
        with ProcessPoolExecutor(options.workers, get_context("spawn")) as pool:
            rows = [row for found in pool.map(of_base, [mode] * BASES, range(BASES)) for row in found]
        results[mode] = rows
        print(f"{mode}: drift found")
        for kind in (*BENIGN, *DRIFTED):
            parts = []
            for draw in DRAWS:
                verdicts = [row["verdict"] for row in rows if (row["kind"], row["draw"]) == (kind, draw)]
                found = verdicts.count("drift")
                low, high = exact_interval(found, len(verdicts))
                parts.append(f"{draw}: {found} of {len(verdicts)} [{low:.0%}, {high:.0%}]")
            print(f"  {kind:42}", "   ".join(parts), flush=True)
    write_result(options.json, torch.device("cpu"), rows=results)


def of_base(mode: str, base: int) -> list[dict[str, Any]]:
    """Returns the verdicts about all candidates of one base, by both draws."""
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
        for i in range(CANDIDATES):
            rng = np.random.default_rng([base, i])
            mixed = np.concatenate([rng.choice(side, SIZE // 2, replace=False) for side in (own, others)])
            a, b = rng.choice(data.num_classes, 2, replace=False)
            seen = dict(zip(BENIGN, (own, mixed, others), strict=True)) | dict.fromkeys(DRIFTED, others)
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
