"""How many shadows and gray images a class a verdict needs: the drift suite, judged with fewer and more of each.

One is varied while the other is the default. Takes the models and shadows that drift_suite.py keeps under --work, or
trains them; fewer shadows than the default are the first of these.

    python bench/drift_sweep.py --data data --set digits --json FILE
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
import argparse
from itertools import product
from pathlib import Path
from typing import Any

import torch

from bench.common.harness import machine
from bench.drift.candidates import MODES, datasets
from bench.drift.suite import RESTARTS, SHADOWS, cell, suite_parser
from bench.drift.summary import OURS, WITH_DATA, summary
from pydrift.core.store import check_writable, write_json


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="data", help="folder of the standard data files")
    parser.add_argument("--set", action="append", choices=list(datasets("")), help="default: all four")
    parser.add_argument("--mode", action="append", choices=MODES, help="default: both")
    parser.add_argument("--shadows", type=int, nargs="*", default=[8, 16, 24, 32, 48])
    parser.add_argument("--restarts", type=int, nargs="*", default=[1, 2, 8, 16])
    parser.add_argument("--workers", default="2", help="processes, of one thread each")
    parser.add_argument("--resume-dir", default="suite", help="as drift_suite.py's")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if options.json is not None:
        check_writable(options.json)
    sets, lines = datasets(options.data), []
    grid = [*product(options.shadows, [RESTARTS]), *product([SHADOWS], options.restarts)]
    kept = ["--no-alternatives", "--resume-dir", options.work, "--workers", options.workers]
    for name, mode in product(options.set or sets, options.mode or MODES):
        print(f"{name}, {mode}: AUROC, found at 5 %, right class first, found by the own rule, false alarms")
        for shadows, restarts in dict.fromkeys(grid):
            how = suite_parser().parse_args([*kept, "--shadows", str(shadows), "--restarts", str(restarts)])
            rows = cell(how, sets[name], mode)
            line = {"set": name, "mode": mode, "shadows": shadows, "restarts": restarts}
            line |= {"gray only": summary(rows, OURS), "with reference data": summary(rows, WITH_DATA)}
            lines.append(line)
            print(f"  {shadows:2} shadows, {restarts:2} restarts:", _text(line), flush=True)
            if options.json is not None:
                write_json(options.json, {"machine": machine(torch.device("cpu")), "lines": lines})


def _text(line: dict[str, Any]) -> str:
    parts = []
    for method in ("gray only", "with reference data"):
        found = line[method]
        shares = [found[name] for name in ("found_at_5", "first", "found", "false_alarms")]
        parts.append(f"{method} {found['auroc']:.3f}, " + ", ".join(f"{share:.0%}" for share in shares))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
