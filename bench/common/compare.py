"""A comparison in turns: what a peer is, which of them run, and what their times say."""

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from bench.common.ceilings import float32_products
from bench.common.harness import Samples


@dataclass(frozen=True)
class Peer:
    run: Callable[[], Any]
    precision: str  # of products and convolutions: "float32", or on CUDA also "tf32" and "bfloat16"

    def __call__(self) -> Any:
        with float32_products(self.precision):
            return self.run()


def attempt(found: dict[str, Peer], read: Callable[[Any], Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Runs each peer once. -> what `read` makes of the results of those that run, and why the others do not."""
    results: dict[str, Tensor] = {}
    failures: dict[str, str] = {}
    for name, peer in found.items():
        try:
            results[name] = read(peer()).clone()
        except Exception as error:  # a compiler that is not there, an operation that a mode does not know
            failures[name] = f"{type(error).__name__}: {(str(error).strip().splitlines() or [''])[0][:200]}"
    return results, failures


def fractions(samples: Samples, work: dict[str, float], flops: float) -> dict[str, Any]:
    """Necessary operations a second as a share of each ceiling; medians over the rounds."""
    shares = {
        name: statistics.median(
            (flops / ours) / (work[name] / limit)
            for ours, limit in zip(samples["native"], samples[f"ceiling {name}"], strict=True)
        )
        for name in work
        if name != "copy"
    }
    peak = "fma" if "fma" in shares else "matmul float32"
    return {"peak": peak, "fraction_of_peak": shares[peak], "fraction_of": shares}


def best_of(entries: dict[str, dict[str, Any]], ours: tuple[str, ...] = ()) -> dict[str, Any]:
    """Of all but ours: the fastest peer in float32, the fastest in any precision, and eager; by their ratios."""

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
