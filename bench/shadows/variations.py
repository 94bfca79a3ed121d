"""What is measured beside the comparison on one thread: all threads, other forms of the op, how the cost grows."""

import os
import statistics
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

from bench.common.compare import Peer
from bench.common.harness import ratio, time_in_turns
from bench.shadows.native import moments, native
from bench.shadows.native import statistics as statistics_run
from bench.shadows.task import Task

_ROUNDS = 5


def all_threads(task: Task, peers: Callable[[Task], dict[str, Peer]]) -> dict[str, Any]:
    """Measures wall time on every core.

    The peers run with torch's threads inside each operation. They run again with a share of the models for each thread
    and no threads inside.
    """
    threads = os.cpu_count() or 1
    runs: dict[str, Callable[[], object]] = {"native": native(task), **peers(task)}
    samples = time_in_turns(runs, task.device, _ROUNDS, 0, threads)
    ratios = {name: ratio(samples, name, "native") for name in runs if name != "native"}
    share = replace(task, num_models=task.num_models // threads)
    with ThreadPoolExecutor(threads) as pool:
        shares = [peers(share) for _ in range(threads)]

        def side_by_side(name: str) -> Callable[[], object]:
            return lambda: list(pool.map(lambda own: own[name](), shares))

        apart = {name: side_by_side(name) for name in shares[0]}
        # The op starts as many threads as torch has, and a peer's threads must have one each. So they take no turns.
        alone = time_in_turns(apart, task.device, _ROUNDS, 0, threads=1)
    ours = statistics.median(samples["native"])
    ratios |= {f"{name}, models over threads": statistics.median(alone[name]) / ours for name in apart}
    return {"threads": threads, "s_per_image": ours / task.per_call, "ratios": ratios}


def other_forms(task: Task) -> dict[str, Any]:
    """Measures the statistics of images that are bytes, and the moments over the models, against the compared form."""
    runs = {
        "native": statistics_run(task),
        "images of bytes": statistics_run(task, pixels=True),
        "moments over the models": moments(task),
    }
    samples = time_in_turns(runs, task.device, _ROUNDS, slice_s=0.02 if task.device.type == "cuda" else 0)
    return {
        name: {"s_per_image": statistics.median(samples[name]) / task.per_call, "ratio": ratio(samples, name, "native")}
        for name in runs
        if name != "native"
    }


def scale_sweep(task: Task) -> list[dict[str, Any]]:
    """Measures our seconds per image for more models, more images or steps, and more threads."""
    all_cores = (os.cpu_count() or 1) if task.device.type == "cpu" else 1
    models = task.num_models
    points = [(task, 1)]
    points += [(replace(task, num_models=count), 1) for count in (1, 2, models // 2, 2 * models)]
    if task.steps:
        points += [(replace(task, steps=2 * task.steps), 1), (replace(task, batch_size=2 * task.batch_size), 1)]
    else:
        points += [(replace(task, num_images=count), 1) for count in (1, 37, task.num_images // 2, 4 * task.num_images)]
    points += [(replace(task, num_models=count), all_cores) for count in (1, models, 4 * models) if all_cores > 1]
    rows = []
    for some, threads in points:
        samples = time_in_turns({"native": native(some)}, some.device, 3, 0.02, threads)["native"]
        rows.append(
            {
                "models": some.num_models,
                "images": some.per_call // some.num_models,
                "batch_size": some.batch_size or None,
                "threads": threads,
                "s_per_image": statistics.median(samples) / some.per_call,
            }
        )
    return rows
