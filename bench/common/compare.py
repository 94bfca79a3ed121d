"""A comparison in turns: what a peer is, which peers run, and what their times say."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.common.ceilings import Ceiling, float32_products
from bench.common.harness import Samples


@dataclass(frozen=True)
class Peer:
    """Another way to do the same work. `precision` is that of its products and convolutions.

    It is "float32", or on CUDA also "tf32" and "bfloat16".
    """

    run: Callable[[], Any]
    precision: str

    def __call__(self) -> Any:
        with float32_products(self.precision):
            return self.run()


def attempt(found: dict[str, Peer], read: Callable[[Any], Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Runs each peer once.

    Returns what `read` makes of the results of those that run, and the reasons why the others do not run. RuntimeError
    where "native" is among the others.
    """
    results: dict[str, Tensor] = {}
    failures: dict[str, str] = {}
    for name, peer in found.items():
        try:
            results[name] = read(peer()).clone()
        except Exception as error:  # no compiler, or an operation that a mode does not know
            failures[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    if "native" in failures:
        raise RuntimeError(failures["native"])
    return results, failures


def ceiling_runs(limits: dict[str, Ceiling]) -> dict[str, Callable[[], object]]:
    """Returns what `time_in_turns` must run so that `shares_of_ceilings` finds the ceilings in its samples."""
    return {f"ceiling {name}": limit.run for name, limit in limits.items()}


def shares_of_ceilings(
    samples: Samples, limits: dict[str, Ceiling], missing: list[str], flops: float
) -> dict[str, Any]:
    """Returns our necessary operations a second, the ceilings, and our share of each. `flops` are those of a run.

    A share is the median of the shares within the rounds. `missing` says which ceilings could not be measured.
    """
    shares = {
        name: statistics.median(
            (flops / ours) / (limits[name].work / limit)
            for ours, limit in zip(samples["native"], samples[f"ceiling {name}"], strict=True)
        )
        for name in limits
        if name != "copy"
    }
    peak = "fma" if "fma" in shares else "matmul float32"
    return {
        "flops_per_s": flops / statistics.median(samples["native"]),
        "ceilings_per_s": {n: limit.work / statistics.median(samples[f"ceiling {n}"]) for n, limit in limits.items()},
        "no_ceiling": missing,
        "peak": peak,
        "fraction_of_peak": shares[peak],
        "fraction_of": shares,
    }


def best_of(entries: dict[str, dict[str, Any]], ours: tuple[str, ...] = ()) -> dict[str, Any]:
    """Returns the fastest peer in float32 and in any precision, and the ratios of these and of eager.

    Entries named in `ours` do not count as peers.
    """

    def fastest(names: list[str]) -> str:
        return min(names, key=lambda name: float(entries[name]["ratio"]))

    others = [name for name in entries if name not in ours]
    same = fastest([name for name in others if entries[name]["precision"] == "float32"])
    any_precision = fastest(others)
    return {
        "best_peer": same,
        "ratio_vs_best": entries[same]["ratio"],
        "best_peer_of_any_precision": any_precision,
        "ratio_vs_best_of_any_precision": entries[any_precision]["ratio"],
        "ratio_vs_eager": entries["eager"]["ratio"],
    }


def print_comparison(row: dict[str, Any], figure: str, unit: str) -> None:
    """Prints our time with its shares of the ceilings, then the peers from fast to slow.

    `figure` is the key of the seconds in the row and in its peers, `unit` what they are seconds of.
    """
    shares = ", ".join(
        f"{share:.2f} of {name} ({row['ceilings_per_s'][name] / 1e9:.0f} G/s)"
        for name, share in row["fraction_of"].items()
    )
    for reason in row["no_ceiling"]:
        print(f"  {reason}")
    print(f"  {'native':46s} {row[figure] * 1e6:9.3f} us {unit}   {shares}")
    for name, entry in sorted(row["peers"].items(), key=lambda item: float(item[1]["ratio"])):
        precision = "" if entry["precision"] == "float32" else entry["precision"]
        time = f"{entry[figure] * 1e6:9.3f} us  {entry['ratio']:6.2f}x"
        print(f"  {name:46s} {time}  results differ by {entry['difference']:.0e}  {precision}")
    for name, reason in row["failed_peers"].items():
        print(f"  {name:46s} does not run: {reason}")
