"""Times `ascent_update`: the native op against its reference in eager torch and under torch.compile.

torch.compile is the strongest peer. The op is bound by memory: an Adam step reads four and writes three float32 values
per pixel. `of copy` is that traffic divided by the bandwidth of a plain copy of the same working set. The peers compute
in float32 throughout. For them torch's own square root replaces the correctly rounded one of the reference.

    python -m bench.inversion.ascent_update [--quick] [--json FILE] [--device cpu|cuda]
"""

from functools import partial
from typing import Any

import torch
from torch import Tensor

from bench.common.harness import copy_bytes_per_second, median_seconds, write_result
from bench.common.options import script_parser
from pydrift.ops import AscentOptions, ascent_update, reference

# [N, C, H, W] by name: ten classes of 16 restarts. No cache holds the last set
WORKLOADS = {
    "digits": (160, 1, 8, 8),
    "fashion-mnist": (160, 1, 28, 28),
    "cifar10": (160, 3, 32, 32),
    "beyond caches": (160, 3, 128, 128),
}
ACCESSES_PER_VALUE = 7
TENSORS_PER_VALUE = 4
OPTIONS = AscentOptions(
    optimizer="adam",
    learning_rate=0.01,
    beta1=0.9,
    beta2=0.999,
    epsilon=1e-8,
    tv_weight=0.02,
    l2_weight=0.003,
    lower=0.0,
    upper=1.0,
    confidence_threshold=2.0,  # neither this nor the patience is reached, so every sample works in every call
    patience=2**30,
)


def state_of(shape: tuple[int, ...], device: torch.device) -> list[Tensor]:
    """Returns the tensors that the op takes, for images of this shape."""
    generator = torch.Generator().manual_seed(0)
    x, gradient = torch.rand(shape, generator=generator), torch.randn(shape, generator=generator)
    per_sample = shape[:1]
    tensors = [x, gradient, torch.zeros(shape), torch.zeros(shape), torch.full(per_sample, -1.0)]
    tensors += [torch.full(per_sample, torch.inf), *(torch.zeros(per_sample, dtype=torch.int32) for _ in range(2))]
    return [tensor.to(device) for tensor in [*tensors, torch.ones(per_sample, dtype=torch.bool)]]


def measure(name: str, shape: tuple[int, ...], device: torch.device, rounds: int) -> dict[str, Any]:
    """Measures one workload. Returns its row of the result file."""
    compiled = torch.compile(reference.ascent_update, fullgraph=True, dynamic=False)
    state, scalars = partial(state_of, shape, device), vars(OPTIONS)
    variants: dict[str, Any] = {
        "native": partial(ascent_update, *state(), options=OPTIONS),
        "eager": partial(reference.ascent_update, *state(), **scalars),
        "compile": partial(compiled, *state(), **scalars),
    }
    seconds = median_seconds(variants, device, rounds)
    num_values = torch.Size(shape).numel()
    copy = copy_bytes_per_second(num_values * 4 * TENSORS_PER_VALUE, device, rounds)
    of_copy = {key: num_values * 4 * ACCESSES_PER_VALUE / value / copy for key, value in seconds.items()}
    return {"workload": name, "shape": shape, "seconds": seconds, "copy_bytes_per_s": copy, "of_copy": of_copy}


def main() -> None:
    parser = script_parser(__doc__, device=True)
    parser.add_argument("--quick", action="store_true", help="run fewer rounds, without the set beyond the caches")
    arguments = parser.parse_args()
    reference.square_root = torch.sqrt  # type: ignore[assignment]
    rows = []
    for name, shape in WORKLOADS.items():
        if arguments.quick and name == "beyond caches":
            continue
        row = measure(name, shape, arguments.device, rounds=7 if arguments.quick else 31)
        rows.append(row)
        print(f"{name:14s} {shape!s:20s} copy {row['copy_bytes_per_s'] / 1e9:6.1f} GB/s")
        for key, value in row["seconds"].items():
            speed = value / row["seconds"]["native"]
            print(
                f"    {key:8s} {value * 1e6:10.1f} us  {row['of_copy'][key]:5.2f} of copy  {speed:5.2f} x native's time"
            )
    write_result(arguments.json, arguments.device, rows=rows)


if __name__ == "__main__":
    main()
