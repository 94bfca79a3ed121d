"""Times many networks at once: shadow_statistics and shadow_train against every way to do the same in torch.

First the ops are compared with float64. Then an op and its peers run in turns on random networks and images. On the CPU
they run on one thread with CPU time as the clock, and once more on all threads in wall time.

    w4  statistics of many convnets on the same images      w5  the same of MLPs
    w6  training of many convnets, each on its own batches, the optimizer included; with SGD, and with AdamW

The shares of the ceilings count necessary operations only, padding included. These are the forward pass in w4 and w5.
In w6 they are three times the forward pass, less the gradient of the images.

    python -m bench.shadows.speed [--workload w4|w5|w6] [--device cpu|cuda] [--json FILE] [--quick]

The exit code is 1 where the result differs from float64.
"""

import statistics
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from bench.common.ceilings import ceilings
from bench.common.compare import Peer, attempt, best_of, ceiling_runs, print_comparison, shares_of_ceilings
from bench.common.harness import ratio, time_in_turns, write_result
from bench.common.options import script_parser
from bench.shadows import statistics_peers, training_peers
from bench.shadows.native import native, verify
from bench.shadows.task import ADAM, SGD, Task
from bench.shadows.variations import all_threads, other_forms, scale_sweep
from pydrift.ops import native_status

CONVNET, MLP = "convnet:1x28x28:32,64:128:10", "mlp:1x28x28:256-128:10"


@dataclass(frozen=True)
class Workload:
    """Says what a run does. Pairs are for the CPU and for a GPU.

    full_images  images of each model for which a GPU's goal is set; the time is linear in models, images and steps
    block        images that a peer passes through a network together
    """

    arch: str
    models: tuple[int, int]
    images: tuple[int, int]
    full_images: int
    block: tuple[int, int] = (0, 0)
    batch_size: tuple[int, int] = (0, 0)
    steps: tuple[int, int] = (0, 0)
    optimizers: tuple[str, ...] = (SGD,)

    def task(self, device: torch.device, optimizer: str, quick: bool) -> Task:
        i = int(device.type == "cuda")
        images = self.images[i] // 5 if quick and i and not self.steps[i] else self.images[i]
        return Task(
            self.arch,
            self.models[i],
            images,
            device,
            self.block[i],
            self.batch_size[i],
            -(-self.steps[i] // 2) if quick else self.steps[i],
            optimizer,
        )


WORKLOADS = {
    "w4": Workload(CONVNET, (8, 128), (256, 60_000), 60_000, (32, 1000)),
    "w5": Workload(MLP, (32, 128), (2048, 60_000), 60_000, (256, 7500)),
    "w6": Workload(CONVNET, (8, 64), (4096, 30_000), 300_000, (0, 0), (64, 128), (4, 20), (SGD, ADAM)),
}
GOALS = {  # on the CPU: share of the register peak, ratio to the best peer, ratio to vmap
    "w4": (0.80, 1.9, 8.0),
    "w5": (0.88, 1.2, 1.4),
    "w6": (0.60, 1.7, 3.5),
}


def peers_of(task: Task, quick: bool) -> dict[str, Peer]:
    """Returns the peers of the task's op by name."""
    return (training_peers if task.steps else statistics_peers).peers(task, quick)


def read_of(task: Task) -> Callable[[Any], Tensor]:
    """Returns a function that makes one tensor of a result: the margins, or the way that the parameters have gone."""
    if not task.steps:
        return lambda result: result[0]
    start = task.parameters.clone()
    return lambda result: (result if isinstance(result, Tensor) else training_peers.flat(result)) - start


def compare(task: Task, found: dict[str, Peer], rounds: int) -> dict[str, Any]:
    """Measures the peers and the ceilings in turns with ours. Returns times and ratios."""
    found = {"native": Peer(native(task), "float32"), **found}
    results, failures = attempt(found, read_of(task))
    limits, no_ceiling = ceilings(task.device)
    runs: dict[str, Callable[[], object]] = {name: found[name] for name in results}
    runs |= ceiling_runs(limits)
    samples = time_in_turns(runs, task.device, rounds, slice_s=0.02 if task.device.type == "cuda" else 0)
    norm = results["native"].norm()
    entries = {
        name: {
            "s_per_image": statistics.median(samples[name]) / task.per_call,
            "ratio": ratio(samples, name, "native"),
            "precision": found[name].precision,
            "difference": float((result - results["native"]).norm() / norm),
        }
        for name, result in results.items()
    }
    ours = entries.pop("native")
    return {
        "s_per_image": ours["s_per_image"],
        **shares_of_ceilings(samples, limits, no_ceiling, task.flops()),
        **best_of(entries),
        **best_public(entries),
        "ratio_vs_vmap": entries["vmap"]["ratio"] if "vmap" in entries else None,
        "peers": entries,
        "failed_peers": failures,
    }


def best_public(entries: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Returns the fastest float32 peer that needs none of torch's private operations, as those by hand do."""
    public = {name: e["ratio"] for name, e in entries.items() if "by hand" not in name and e["precision"] == "float32"}
    best = min(public, key=lambda name: float(public[name]))
    return {"best_public_peer": best, "ratio_vs_best_public": public[best]}


def measure(name: str, optimizer: str, device: torch.device, quick: bool) -> dict[str, Any]:
    """Measures one workload. Returns its row of the result file."""
    workload = WORKLOADS[name]
    task = workload.task(device, optimizer, quick)
    if reason := missing(task):
        return {"workload": name, "device": device.type, "verified": None, "not_run": reason}
    errors = verify(task, few=(1 if quick else 3) if task.steps else 61)
    row: dict[str, Any] = {
        "workload": name,
        "arch": task.arch,
        "device": device.type,
        "precision": "float32",
        "path": native_status().describe(device.type),
        "models": task.num_models,
        "images": task.num_images,
        "batch_size": task.batch_size or None,
        "steps": task.steps or None,
        "optimizer": task.optimizer if task.steps else None,
        "verified": all(error["max"] <= error["tolerance"] for error in errors),
        "errors": errors,
    }
    if not row["verified"]:
        return row
    row.update(compare(task, peers_of(task, quick), rounds=3 if quick else 7))
    if device.type == "cpu":
        row["goals"] = dict(zip(("fraction_of_peak", "ratio_vs_best", "ratio_vs_vmap"), GOALS[name], strict=True))
    else:
        models = workload.models[1]
        row["full_size"] = {
            "models": models,
            "images_of_each": workload.full_images,
            "s": row["s_per_image"] * models * workload.full_images,
        }
    if not task.steps:
        row["other_forms"] = other_forms(task)
    if quick:
        return row
    if device.type == "cpu":
        names = list(dict.fromkeys(("eager", row["best_peer"])))
        row["all_threads"] = all_threads(
            task, lambda part: {k: v for k, v in peers_of(part, False).items() if k in names}
        )
    row["scale"] = scale_sweep(task)
    return row


def missing(task: Task) -> str | None:
    """Says why our op does not run, where the native library has none for the device."""
    op, device = "shadow_train" if task.steps else "shadow_statistics", task.device.type
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    if native_status().runs_on(device) and not has_kernel(f"pydrift::{op}", device.upper()):
        return f"{op} has no native code for {device}"
    return None


def print_row(row: dict[str, Any]) -> None:
    """Prints what is known of one workload."""
    if reason := row.get("not_run"):
        print(f"{row['workload']}: {reason}")
        return
    job = (
        f"{row['steps']} steps of {row['batch_size']}, {row['optimizer']}"
        if row["steps"]
        else f"{row['images']} images"
    )
    print(f"{row['workload']}: {row['models']} x {row['arch']}, {job}, {row['path']}")
    for error in row["errors"]:
        torch_too = f", torch in float32 {error['of_torch_in_float32']:.1e}" if "of_torch_in_float32" in error else ""
        if torch_too or error["max"] > error["tolerance"]:
            print(f"  error of the {error['of']}: {error['max']:.1e}, allowed {error['tolerance']:.0e}{torch_too}")
    worst = max(row["errors"], key=lambda error: error["max"] / error["tolerance"])
    right = "all as in float64" if row["verified"] else "NOT as in float64"
    print(f"  {right}; largest error: {worst['max']:.1e} of the {worst['of']}")
    if not row["verified"]:
        return
    print_comparison(row, "s_per_image", "an image")
    vmap = "does not run" if row["ratio_vs_vmap"] is None else f"{row['ratio_vs_vmap']:.2f}x"
    print(
        f"  {row['fraction_of_peak']:.2f} of {row['peak']}; best peer: {row['best_peer']}, "
        f"{row['ratio_vs_best']:.2f}x; best of torch's public functions: {row['best_public_peer']}, "
        f"{row['ratio_vs_best_public']:.2f}x; vmap {vmap}; eager {row['ratio_vs_eager']:.2f}x"
    )
    if goals := row.get("goals"):
        print("  goals: {fraction_of_peak:.2f}, {ratio_vs_best:.1f}x, vmap {ratio_vs_vmap:.1f}x".format(**goals))
    if full := row.get("full_size"):
        print(f"  {full['models']} models x {full['images_of_each']} images at this rate: {full['s'] * 1e3:.1f} ms")
    for name, part in row.get("other_forms", {}).items():
        print(f"  {name}: {part['ratio']:.2f} of the time")
    if wall := row.get("all_threads"):
        ratios = "; ".join(f"{name} {value:.2f}x" for name, value in wall["ratios"].items())
        print(f"  {wall['threads']} threads, wall time: native {wall['s_per_image'] * 1e6:.3f} us an image; {ratios}")
    for point in row.get("scale", []):
        batches = f" in batches of {point['batch_size']}" if point["batch_size"] else ""
        where = f"{point['models']:4d} models, {point['images']:6d} images each{batches}, {point['threads']} threads"
        print(f"  {where} {point['s_per_image'] * 1e6:9.3f} us an image")


def main() -> int:
    parser = script_parser(__doc__, device=True)
    parser.add_argument(
        "--workload",
        choices=list(WORKLOADS),
        action="append",
        help="run this workload; may be repeated. The default is all",
    )
    parser.add_argument("--quick", action="store_true", help="run eager, vmap and the fastest peers in fewer rounds")
    arguments = parser.parse_args()
    device = arguments.device
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name in arguments.workload or list(WORKLOADS):
        for optimizer in WORKLOADS[name].optimizers:
            rows.append(measure(name, optimizer, device, arguments.quick))
            print_row(rows[-1])
            sys.stdout.flush()
            write_result(arguments.json, device, rows=rows)
    wrong = sorted({row["workload"] for row in rows if row["verified"] is False})
    if wrong:
        print(f"the results of {', '.join(wrong)} differ from those of float64", file=sys.stderr)
    return bool(wrong)


if __name__ == "__main__":
    sys.exit(main())
