"""What every benchmark shares: timings in turns, medians, ratios, and a record of the machine.

On the CPU one thread runs and its CPU time is the clock. So other processes on the machine count as little as possible.
With more threads, and on a GPU, the clock is wall time. The variants take turns within each round, so that a change of
clock speed meets them all. A ratio is the median of the ratios within the rounds.
"""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from pydrift.core.strict_json import write_json
from pydrift.ops import native_status

Samples = dict[str, list[float]]  # seconds of one call, one value per round


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


def time_in_turns(
    variants: Mapping[str, Callable[[], object]],
    device: torch.device,
    rounds: int,
    slice_s: float = 0.01,
    threads: int = 1,
) -> Samples:
    """Returns the seconds of one call of each variant in each of `rounds` rounds.

    In a round each variant runs for about `slice_s` seconds. With `slice_s` 0 it runs once, which suits long variants.
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
    """Returns the median seconds of one call of each variant. The arguments are those of `time_in_turns`."""
    return {
        name: statistics.median(values) for name, values in time_in_turns(variants, device, rounds, slice_s).items()
    }


def ratio(samples: Samples, numerator: str, denominator: str) -> float:
    """Returns the median over the rounds of one variant's time divided by the other's."""
    return statistics.median(a / b for a, b in zip(samples[numerator], samples[denominator], strict=True))


def copy_bytes_per_second(num_bytes: int, device: torch.device, rounds: int) -> float:
    """Measures the bandwidth of a copy, read plus written. Source and target together hold `num_bytes`."""
    source = torch.ones(max(1, num_bytes // 8), device=device)
    target = torch.empty_like(source)
    seconds = median_seconds({"copy": lambda: target.copy_(source)}, device, rounds)["copy"]
    return 2 * source.nbytes / seconds


def machine(device: torch.device) -> dict[str, object]:
    """Describes processor, versions and commit. A number means nothing without them."""
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


def write_result(path: Path | None, device: torch.device, **content: Any) -> None:
    """Writes `content` beside the machine that it was measured on. Does nothing where `path` is None."""
    if path is not None:
        write_json(path, {"machine": machine(device), **content})
