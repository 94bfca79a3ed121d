"""How many shadows, and how many gray images of a class, does a verdict need?

The drift suite is judged with fewer and more of each. One number varies while the other is the default. The script uses
the models and shadows that the suite keeps in --resume-dir, or trains them. Fewer shadows than the default are the
first of these.

    python -m bench.drift.sweep --data data --set digits --json FILE
"""

import os

os.environ["OMP_NUM_THREADS"] = "1"  # each worker has one core; numpy reads this when it is imported
from itertools import product
from typing import Any

import torch

from bench.common.harness import write_result
from bench.common.options import script_parser
from bench.drift.candidates import DRIFT_IN_RANGE, IN_RANGE, UPDATE_MODES, datasets
from bench.drift.suite import RESTARTS, SHADOWS, cell, suite_parser
from bench.drift.summary import OURS, OURS_VARIED, summary


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--data", default="data", help="read the standard data files in this folder")
    parser.add_argument("--set", action="append", choices=list(datasets("")), help="use this data set; default: all")
    parser.add_argument("--update-mode", action="append", choices=UPDATE_MODES, help="use this mode; default: both")
    parser.add_argument("--shadows", type=int, nargs="*", default=[8, 16, 24, 32, 48], help="try these numbers")
    parser.add_argument("--restarts", type=int, nargs="*", default=[1, 2, 8, 16], help="try these numbers")
    parser.add_argument("--workers", default="2", help="run so many processes, of one thread each")
    parser.add_argument("--resume-dir", default="suite", help="use the models of the drift suite here")
    options = parser.parse_args()
    sets, lines = datasets(options.data), list[dict[str, Any]]()
    grid = [*product(options.shadows, [RESTARTS]), *product([SHADOWS], options.restarts)]
    kept = ["--no-alternatives", "--draws", "1", "--resume-dir", options.resume_dir, "--workers", options.workers]
    for name, mode in product(options.set or sets, options.update_mode or UPDATE_MODES):
        print(f"{name}, {mode}: AUROC, found at 5 %, right class first, found by the own rule, false alarms")
        for shadows, restarts in dict.fromkeys(grid):
            numbers = ["--shadows", str(shadows), "--restarts", str(restarts)]
            rows = cell(suite_parser().parse_args([*kept, *numbers]), sets[name], mode)
            line = {"set": name, "update_mode": mode, "shadows": shadows, "restarts": restarts}
            line |= {"same": summary(rows, OURS), "varied": summary(rows, OURS_VARIED, IN_RANGE, DRIFT_IN_RANGE)}
            lines.append(line)
            print(f"  {shadows:2} shadows, {restarts:2} restarts:", _text(line), flush=True)
            write_result(options.json, torch.device("cpu"), lines=lines)


def _text(line: dict[str, Any]) -> str:
    parts = []
    for method in ("same", "varied"):
        found = line[method]
        shares = [found[name] for name in ("found_at_5", "first", "found", "false_alarms")]
        parts.append(f"{method} {found['auroc']:.3f}, " + ", ".join(f"{share:.0%}" for share in shares))
    return "; ".join(parts)


if __name__ == "__main__":
    main()
