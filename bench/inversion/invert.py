"""Times `invert`: the native loop against every way to run the same ascent in torch, and against the machine's limits.

First the op is compared with its reference in float64. Then it and its peers run in turns: the same number of steps of
the same restarts of random networks, without a stop rule. On the CPU they run on one thread with CPU time as the clock,
and once more on all threads in wall time. The shares of the ceilings count the forward pass and the data gradient only.
These are twice the operations of the forward pass, padding included. The stop rule is reported apart, and so is how the
cost of a step grows with restarts, models and threads.

    python -m bench.inversion.invert [--workload w1|w1m|w2|w2c|w3] [--device cpu|cuda] [--json FILE] [--quick]

The exit code is 1 where the result differs from the reference.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from bench.common.ceilings import ceilings
from bench.common.compare import Peer, attempt, best_of, ceiling_runs, print_comparison, shares_of_ceilings
from bench.common.flops import forward_flops
from bench.common.harness import ratio, time_in_turns, write_result
from bench.common.options import script_parser
from bench.inversion.peers import peers
from bench.inversion.steps import ascend, autograd, step_of
from bench.inversion.task import NEVER, SEED, Task, generic, native, options
from bench.inversion.variations import all_threads, early_stop, scale_sweep, with_jitter
from pydrift.ops import native_status, reference

# For each number of steps: the relative error of an image, and the share of restarts that must be within it. Not all
# must be. Where a value passes 0 at a ReLU, or a pooled maximum changes its place, one rounding decides. From there the
# restart takes another path. As many restarts do so in torch's own float32, each time others.
TOLERANCES = {1: (1e-5, 0.95), 10: (1e-4, 0.66)}
GENERIC = "pydrift's generic path"
OURS = (GENERIC, "native 3xtf32", "native tf32", "native bfloat16")  # beside the op with its default precision
FIRST_STEP = "its start"  # a call of the generic path costs this beside its steps, and it is not compared


@dataclass(frozen=True)
class Workload:
    """Says what a run does: networks, restarts of each class, and the steps on a CPU and on a GPU.

    block         restarts of one model that a peer on the CPU runs together
    cpu_restarts  restarts where the CPU is too slow for all

    The time is linear in the steps, so hundreds are not needed. But the op looks at its final images once more. That is
    half a step's work, which the peers do not do. There must be enough steps for that not to weigh.
    """

    arch: str
    restarts: int
    cpu_steps: int
    cuda_steps: int
    block: int
    num_models: int = 1
    cpu_restarts: int | None = None

    def task(self, device: torch.device, quick: bool) -> Task:
        if device.type == "cuda":
            return Task(self.arch, self.restarts, self.cuda_steps, device, self.num_models)
        restarts = self.cpu_restarts or self.restarts
        if quick and self.arch.startswith("convnet"):
            restarts = min(restarts, 16)
        return Task(self.arch, restarts, self.cpu_steps, device, self.num_models, block=self.block)


WORKLOADS = {
    "w1": Workload("mlp:1x28x28:256-128:10", 64, 50, 100, 320),
    "w1m": Workload("mlp:1x28x28:256-128:10", 8, 50, 100, 80, num_models=8),
    "w2": Workload("convnet:1x28x28:32,64:128:10", 64, 20, 40, 80),
    "w2c": Workload("convnet:3x32x32:32,64,128:256:10", 64, 10, 40, 80),
    "w3": Workload("resnet18:3x32x32:10", 32, 1, 5, 10, cpu_restarts=1),
}


def relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    """Returns for each restart the norm of the difference divided by the norm of the image, [N]."""
    expected = expected.double().cpu().flatten(1)
    return (got.double().cpu().flatten(1) - expected).norm(dim=1) / expected.norm(dim=1)


def verify(task: Task, restarts: int) -> list[dict[str, float]]:
    """Returns the relative errors against float64 after 1 and after 10 steps of a few restarts of each class."""
    rows = []
    for steps, (tolerance, share) in TOLERANCES.items():
        few = replace(task, restarts=min(task.restarts, restarts), steps=steps, block=2**30)
        if few.lowered is None:
            double = replace(few, dtype=torch.float64)
            got, expected = generic(few)(), ascend(double, [step_of(autograd(double.networks[0]))])()
        else:
            got, expected = native(few)(), few.x.double()
            parameters = torch.stack([model.parameters() for model in few.lowered]).double()
            how = {**vars(options(**NEVER)), "seed": SEED, "jitter": few.jitter, "precision": "float32"}
            how |= {"program": few.lowered[0].program(), "max_steps": steps}
            reference.invert(expected, parameters, few.model, few.label.int(), few.restart.int(), **how)
        errors = relative_errors(got, expected)
        rows.append(
            {
                "steps": steps,
                "median": float(errors.median()),
                "max": float(errors.max()),
                "share_within_tolerance": float((errors <= tolerance).double().mean()),
                "tolerance": tolerance,
                "required_share": share,
            }
        )
    return rows


def compare(task: Task, found: dict[str, Peer], rounds: int) -> dict[str, Any]:
    """Measures the peers and the ceilings in turns with ours. Returns times and ratios."""
    lowered = task.lowered is not None
    found = {"native": Peer(native(task) if lowered else generic(task), "float32"), **found}
    images, failures = attempt(found, lambda images: images)
    runs: dict[str, Callable[[], object]] = {name: found[name] for name in images}
    for name in {GENERIC if lowered else "native"} & runs.keys():
        runs[name] = Peer(generic(task, task.steps + 1), "float32")
        runs[FIRST_STEP] = Peer(generic(task, 1), "float32")
    limits, missing = ceilings(task.device)
    slice_s = 0.02 if task.device.type == "cuda" else 0  # there a run is short
    samples = time_in_turns({**runs, **ceiling_runs(limits)}, task.device, rounds, slice_s)
    for name in {GENERIC if lowered else "native"} & runs.keys():
        samples[name] = [a - b for a, b in zip(samples[name], samples[FIRST_STEP], strict=True)]

    per_call = task.num_restarts * task.steps
    entries = {
        name: {
            "s_per_restart_step": statistics.median(samples[name]) / per_call,
            "ratio": ratio(samples, name, "native"),
            "precision": found[name].precision,
            "difference": float(relative_errors(images[name], images["native"]).median()),
        }
        for name in images
    }
    flops = 2 * forward_flops(task.networks[0], task.x[:1]) * per_call
    ours = entries.pop("native")
    return {
        "s_per_restart_step": ours["s_per_restart_step"],
        **shares_of_ceilings(samples, limits, missing, flops),
        **best_of(entries, OURS),
        "peers": entries,
        "failed_peers": failures,
    }


def measure(name: str, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measures one workload. Returns its row of the result file."""
    task = WORKLOADS[name].task(device, quick)
    errors = verify(task, restarts=2 if quick else 4)
    row: dict[str, Any] = {
        "workload": name,
        "arch": task.arch,
        "device": device.type,
        "precision": "float32",
        "path": native_status().describe(device.type) if task.lowered else "generic",
        "models": task.num_models,
        "restarts": task.num_restarts,
        "steps": task.steps,
        "verified": all(error["share_within_tolerance"] >= error["required_share"] for error in errors),
        "relative_errors": errors,
    }
    if not row["verified"]:
        return row
    row.update(compare(task, peers(task, quick), rounds=3 if quick else 5))
    if quick or task.lowered is None:
        return row
    if device.type == "cpu":
        row["all_threads"] = all_threads(task, row["best_peer"])
    if task.num_models == 1:
        row["jitter_2"] = with_jitter(task, row["best_peer"])
        row["early_stop"] = early_stop(task)
        row["scale"] = scale_sweep(task)
    return row


def print_row(row: dict[str, Any]) -> None:
    """Prints what is known of one workload."""
    many = f"{row['models']} x " if row["models"] > 1 else ""
    print(f"{row['workload']}: {many}{row['arch']}, {row['restarts']} restarts x {row['steps']} steps, {row['path']}")
    for error in row["relative_errors"]:
        print(
            f"  relative error of the images after {error['steps']:2d} steps: median {error['median']:.1e}, "
            f"max {error['max']:.1e}, {error['share_within_tolerance']:.0%} within {error['tolerance']:.0e}"
        )
    if not row["verified"]:
        return
    print_comparison(row, "s_per_restart_step", "a restart-step")
    print(f"  best peer: {row['best_peer']}, {row['ratio_vs_best']:.2f}x; eager {row['ratio_vs_eager']:.2f}x")
    if wall := row.get("all_threads"):
        print(f"  {wall['threads']} threads, wall time: " + _ratios(wall))
    if jitter := row.get("jitter_2"):
        print("  with jitter 2: " + _ratios(jitter))
    if stop := row.get("early_stop"):
        print(
            f"  stop rule: {stop['mean_steps']:.1f} steps a restart, at most {stop['most_steps']}; blocks that wait "
            f"for their slowest restart take {stop['lockstep_steps']:.1f}: " + _ratios(stop)
        )
    for point in row.get("scale", []):
        where = f"{point['restarts']:6d} restarts, {point['models']:2d} models, {point['threads']} threads"
        print(f"  {where} {point['s_per_restart_step'] * 1e6:9.2f} us per restart-step")


def _ratios(part: dict[str, Any]) -> str:
    ours = f"native {part['s_per_restart_step'] * 1e6:.2f} us per restart-step"
    return "; ".join([ours, *(f"{name} {value:.2f}x" for name, value in part["ratios"].items())])


def main() -> int:
    parser = script_parser(__doc__, device=True)
    parser.add_argument(
        "--workload",
        choices=list(WORKLOADS),
        action="append",
        help="run this workload; may be repeated. The default is all; on the CPU --quick leaves out w1m and w3",
    )
    parser.add_argument("--quick", action="store_true", help="run eager and the fastest peers in fewer rounds")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    everything = [
        name for name in WORKLOADS if not (arguments.quick and device.type == "cpu" and name in ("w1m", "w3"))
    ]
    for name in arguments.workload or everything:
        rows.append(measure(name, device, arguments.quick))
        print_row(rows[-1])
        sys.stdout.flush()
        write_result(arguments.json, device, rows=rows)
    wrong = [row["workload"] for row in rows if not row["verified"]]
    if wrong:
        print(f"the images of {', '.join(wrong)} differ from those of the float64 reference", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
