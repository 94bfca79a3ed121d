"""What every benchmark here shares: interleaved runs, medians, and a record of where they ran.

On the CPU one thread runs and its CPU time is the clock, so that other processes on the machine count as little as
possible. The variants take turns within each round, so that a change of clock speed meets them all.
"""

import json
import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import torch

from pydrift.ops import native_status


def _seconds(call: Callable[[], object], num_calls: int, device: torch.device) -> float:
    clock = time.process_time
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        clock = time.perf_counter
    start = clock()
    for _ in range(num_calls):
        call()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (clock() - start) / num_calls


def median_seconds(
    variants: Mapping[str, Callable[[], object]], device: torch.device, rounds: int, slice_s: float = 0.01
) -> dict[str, float]:
    """Median seconds of one call of each variant, over `rounds` rounds of at least `slice_s` a variant."""
    torch.set_num_threads(1)
    num_calls = {}
    for name, call in variants.items():
        _seconds(call, 3, device)  # warm-up: compilation, caches
        num_calls[name] = max(1, round(slice_s / max(_seconds(call, 3, device), 1e-7)))
    samples: dict[str, list[float]] = {name: [] for name in variants}
    for _ in range(rounds):
        for name, call in variants.items():
            samples[name].append(_seconds(call, num_calls[name], device))
    return {name: statistics.median(values) for name, values in samples.items()}


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
    return {
        "cpu": model,
        "num_cpus": os.cpu_count(),
        "gpu": torch.cuda.get_device_name(device) if device.type == "cuda" else None,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "native": native_status().describe(device.type),
        "build": native_status().build,
        "commit": subprocess.run(git, capture_output=True, text=True).stdout.strip() or None,
    }


def write_json(path: Path, device: torch.device, rows: list[dict[str, object]]) -> None:
    """`rows` with the machine they were measured on."""
    path.write_text(json.dumps({"machine": machine(device), "rows": rows}, indent=2) + "\n")
