"""What every benchmark here shares: interleaved runs, medians, ratios, and a record of where they ran.

On the CPU one thread runs and its CPU time is the clock, so that other processes on the machine count as little as
possible; with more threads, and on a GPU, it is wall time. The variants take turns within each round, so that a change
of clock speed meets them all, and a ratio is the median of the ratios within the rounds.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pydrift.ops import native_status

Samples = dict[str, list[float]]  # seconds of one call, a value for each round


def _seconds(call: Callable[[], object], num_calls: int, device: torch.device) -> float:
    clock = time.process_time if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = clock()
    for _ in range(num_calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - start) / num_calls


def interleaved(
    variants: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    slice_s: float = 0.01,
    threads: int = 1,
) -> Samples:
    """Seconds of one call of each variant in each of `rounds` rounds, in which it runs for about `slice_s`.

    `slice_s` 0: once, for variants that take long.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        num_calls = {}
        for name, call in variants.items():
            call()  # compilation, caches
            num_calls[name] = 1
            if slice_s > 0:
                seconds = min(_seconds(call, 1, device) for _ in range(3))
                num_calls[name] = max(1, round(slice_s / max(seconds, 1e-7)))
        samples: Samples = {name: [] for name in variants}
        for _ in range(rounds):
            for name, call in variants.items():
                samples[name].append(_seconds(call, num_calls[name], device))
    finally:
        torch.set_num_threads(before)
    return samples


def median_seconds(
    variants: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, slice_s: float = 0.01
) -> dict[str, float]:
    """Median seconds of one call of each variant; the arguments are those of `interleaved`."""
    return {name: statistics.median(values) for name, values in interleaved(variants, device, rounds, slice_s).items()}


def ratio(samples: Samples, numerator: str, denominator: str) -> float:
    """Median over the rounds of the one variant's time by the other's."""
    return statistics.median(a / b for a, b in zip(samples[numerator], samples[denominator], strict=True))


def copy_bytes_per_second(num_bytes: int, device: torch.device, rounds: int) -> float:
    """Bandwidth (read plus written) of a copy whose source and destination together hold `num_bytes`."""
    source = torch.ones(max(1, num_bytes // 8), device=device)
    target = torch.empty_like(source)
    seconds = median_seconds({"copy": lambda: target.copy_(source)}, device, rounds)["copy"]
    return 2 * source.nbytes / seconds


def machine(device: torch.device) -> dict[str, object]:
    """Processor, versions and commit: what a number means nothing without."""
    model = platform.processor()
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), model)
    git = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty"]
    try:
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:  # a machine without git
        commit = ""
    return {
        "cpu": model,
        "num_cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "native": native_status().describe(device.type),
        "build": native_status().build,
        "commit": os.environ.get("PYDRIFT_COMMIT") or commit or None,  # a copy of the tree may have no history
    }


def write_json(path: Path, device: torch.device, rows: list[dict[str, Any]]) -> None:
    """`rows` with the machine they were measured on."""
    path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
