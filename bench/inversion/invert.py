"""invert: the native loop against every way to run the same ascent in torch, and against what the machine can do.

First the op is compared with its reference in float64. Then it and its peers run in turns: the same number of steps of
the same restarts of random networks, without a stop rule; on the CPU on one thread with CPU time as the clock, and once
more on all threads in wall time. The fractions of the ceilings count forward and data gradient only, twice the
forward's operations (padding included). A stop rule, with which a restart's end waits for no other, is reported apart,
and so is how the cost of a step grows with restarts, models and threads.

    python bench/bench_invert.py [--workload w1|w1m|w2|w2c|w3] [--device cpu|cuda] [--json FILE] [--quick]

The exit code is 1 where the result is not the reference's.
"""

import argparse
import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from bench.common.ceilings import ceilings
from bench.common.compare import Peer, attempt, best_of, fractions
from bench.common.harness import interleaved, ratio, write_json
from bench.inversion.peers import peers
from bench.inversion.steps import ascend, autograd, step_of
from bench.inversion.task import NEVER, Task, generic, native, options
from bench.inversion.variations import all_threads, early_stop, scale_sweep, with_jitter
from pydrift.ops import native_status, reference

# Steps: relative error of an image, and the share of restarts that must be within. Not all: where a value passes 0 at a
# ReLU, or a pooled maximum changes its place, one rounding decides, and from there the restart takes another path. As
# many restarts do so in torch's own float32, each time others.
TOLERANCES = {1: (1e-5, 0.95), 10: (1e-4, 0.66)}
GENERIC = "pydrift's generic path"
OURS = (GENERIC, "native 3xtf32", "native tf32", "native bfloat16")  # beside the op as it is by default
FIRST_STEP = "its start"  # what a call of the generic path costs beside its steps, which is not compared


@dataclass(frozen=True)
class Workload:
    """Restarts of each class of each of `num_models` networks, steps of a timed run, blocks of the peers on the CPU.

    The time is linear in the steps, so that there need not be hundreds; but the op looks at its final images once more,
    half a step's work that the peers do not do, which should not weigh.
    """

    arch: str
    restarts: int
    cpu_steps: int
    cuda_steps: int
    block: int
    num_models: int = 1
    cpu_restarts: int | None = None  # a token where the CPU is too slow for all

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


def forward_flops(task: Task) -> float:
    """Of one image."""
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        task.networks[0](task.x[:1])
    return float(counter.get_total_flops())


def relative_errors(got: Tensor, expected: Tensor) -> Tensor:
    """Of each restart the norm of the difference over the norm of the image, [N]."""
    expected = expected.double().cpu().flatten(1)
    return (got.double().cpu().flatten(1) - expected).norm(dim=1) / expected.norm(dim=1)


def verify(task: Task, restarts: int) -> list[dict[str, float]]:
    """Relative errors after 1 and after 10 steps of a few restarts of each class, against float64."""
    rows = []
    for steps, (tolerance, share) in TOLERANCES.items():
        few = replace(task, restarts=min(task.restarts, restarts), steps=steps, block=2**30)
        if few.lowered is None:
            double = replace(few, dtype=torch.float64)
            got, expected = generic(few)(), ascend(double, [step_of(autograd(double.networks[0]))])()
        else:
            got, expected = native(few)(), few.x.double()
            parameters = torch.stack([model.parameters() for model in few.lowered]).double()
            how = {**options(few), **NEVER, "program": few.lowered[0].program(), "max_steps": steps}
            how["precision"] = "float32"
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
    """Times and ratios of the peers and of the ceilings, measured in turns with ours."""
    lowered = task.lowered is not None
    found = {"native": Peer(native(task) if lowered else generic(task), "float32"), **found}
    images, failures = attempt(found, lambda images: images)
    if "native" in failures:
        raise RuntimeError(failures["native"])
    runs: dict[str, Callable[[], object]] = {name: found[name] for name in images}
    for name in {GENERIC if lowered else "native"} & runs.keys():
        runs[name] = Peer(generic(task, task.steps + 1), "float32")
        runs[FIRST_STEP] = Peer(generic(task, 1), "float32")
    limits, missing = ceilings(task.device)
    limit_runs = {f"ceiling {name}": limit.run for name, limit in limits.items()}
    slice_s = 0.02 if task.device.type == "cuda" else 0  # there a run is short
    samples = interleaved({**runs, **limit_runs}, task.device, rounds, slice_s)
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
    flops = 2 * forward_flops(task) * per_call
    work = {name: limit.work for name, limit in limits.items()}
    ours = entries.pop("native")
    return {
        "s_per_restart_step": ours["s_per_restart_step"],
        "flops_per_s": flops / statistics.median(samples["native"]),
        "ceilings_per_s": {name: work[name] / statistics.median(samples[f"ceiling {name}"]) for name in work},
        "no_ceiling": missing,
        **fractions(samples, work, flops),
        **best_of(entries, OURS),
        "peers": entries,
        "failed_peers": failures,
    }


def measure(name: str, device: torch.device, quick: bool) -> dict[str, Any]:
    """The row of a workload."""
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


def show(row: dict[str, Any]) -> None:
    many = f"{row['models']} x " if row["models"] > 1 else ""
    print(f"{row['workload']}: {many}{row['arch']}, {row['restarts']} restarts x {row['steps']} steps, {row['path']}")
    for error in row["relative_errors"]:
        print(
            f"  relative error of the images after {error['steps']:2d} steps: median {error['median']:.1e}, "
            f"max {error['max']:.1e}, {error['share_within_tolerance']:.0%} within {error['tolerance']:.0e}"
        )
    if not row["verified"]:
        return
    shares = ", ".join(
        f"{share:.2f} of {name} ({row['ceilings_per_s'][name] / 1e9:.0f} G/s)"
        for name, share in row["fraction_of"].items()
    )
    for reason in row["no_ceiling"]:
        print(f"  {reason}")
    print(f"  {'native':42s} {row['s_per_restart_step'] * 1e6:9.2f} us   {shares}")
    for name, entry in sorted(row["peers"].items(), key=lambda item: float(item[1]["ratio"])):
        precision = "" if entry["precision"] == "float32" else entry["precision"]
        time = f"{entry['s_per_restart_step'] * 1e6:9.2f} us  {entry['ratio']:6.2f}x"
        print(f"  {name:42s} {time}  images differ by {entry['difference']:.0e}  {precision}")
    for name, reason in row["failed_peers"].items():
        print(f"  {name:42s} does not run: {reason}")
    print(f"  best peer: {row['best_peer']}, {row['ratio_vs_best']:.2f}x; eager {row['ratio_vs_eager']:.2f}x")
    if wall := row.get("all_threads"):
        print(f"  {wall['threads']} threads, wall time: " + _ratios(wall))
    if jitter := row.get("jitter_2"):
        print("  with jitter 2: " + _ratios(jitter))
    if stop := row.get("early_stop"):
        print(
            f"  stop rule: {stop['mean_steps']:.1f} steps a restart, at most {stop['most_steps']}; blocks that wait "
            f"for their slowest take {stop['lockstep_steps']:.1f}: " + _ratios(stop)
        )
    for point in row.get("scale", []):
        where = f"{point['restarts']:6d} restarts, {point['models']:2d} models, {point['threads']} threads"
        print(f"  {where} {point['s_per_restart_step'] * 1e6:9.2f} us per restart-step")


def _ratios(part: dict[str, Any]) -> str:
    ours = f"native {part['s_per_restart_step'] * 1e6:.2f} us per restart-step"
    return "; ".join([ours, *(f"{name} {value:.2f}x" for name, value in part["ratios"].items())])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--workload",
        choices=list(WORKLOADS),
        action="append",
        help="may be repeated; default: all, on the CPU --quick leaves out w1m and w3",
    )
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--json", type=Path, help="write machine, versions and numbers to this file")
    parser.add_argument("--quick", action="store_true", help="under 50 s: eager and the fastest peers, fewer rounds")
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        print("bench_invert: there is no CUDA device here", file=sys.stderr)
        return 1
    torch.set_num_threads(1)
    rows = []
    everything = [
        name for name in WORKLOADS if not (arguments.quick and device.type == "cpu" and name in ("w1m", "w3"))
    ]
    for name in arguments.workload or everything:
        rows.append(measure(name, device, arguments.quick))
        show(rows[-1])
        sys.stdout.flush()
        if arguments.json:
            write_json(arguments.json, device, rows)
    wrong = [row["workload"] for row in rows if not row["verified"]]
    if wrong:
        print(f"bench_invert: the images of {', '.join(wrong)} are not those of the float64 reference", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
