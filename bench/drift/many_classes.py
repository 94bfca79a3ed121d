"""How do the time and the memory of the judge grow with the number of classes?

Each number of classes runs in a process of its own: made-up responses of 32 shadows and a candidate to as many probes
as an audit has. Time is that of measuring the drift scores; memory is the largest of the process, responses included.

    python -m bench.drift.many_classes --json bench/results/drift_many_classes.json
"""

import json
import resource
import subprocess
import sys
import time

import numpy as np
import torch

from bench.common.harness import write_result
from bench.common.options import script_parser
from pydrift.core.parallel import with_one_blas_thread
from pydrift.drift.probes import OCCLUSION_COLOURS, SHAPE_KINDS, TRANSFORMS
from pydrift.drift.probes.occlusions import PARTS
from pydrift.drift.scores import GRAY, OCCLUSIONS, SYNTHETIC_SHAPES, measure_drift_scores

SHADOWS = 32


def main() -> None:
    parser = script_parser(__doc__)
    parser.add_argument("--classes", type=int, nargs="*", default=[10, 100, 300, 1000], help="try these numbers")
    parser.add_argument("--alone", type=int, help="measure this number of classes in this process")
    options = parser.parse_args()
    if options.alone is not None:
        print(json.dumps(measure(options.alone)))
        return
    rows = []
    for classes in options.classes:
        command = [sys.executable, "-m", "bench.drift.many_classes", "--alone", str(classes)]
        rows.append(json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout))
        print(
            f"{classes:5} classes: {rows[-1]['seconds']:.2f} s, {rows[-1]['cpu_s']:.2f} s of CPU, "
            f"{rows[-1]['peak_gb']:.2f} GB",
            flush=True,
        )
        write_result(options.json, torch.device("cpu"), rows=rows)
    first, last = rows[-2], rows[-1]
    growth = np.log(last["cpu_s"] / first["cpu_s"]) / np.log(last["classes"] / first["classes"])
    print(f"from {first['classes']} to {last['classes']} classes CPU time grows with the power {growth:.2f}")


def measure(classes: int) -> dict[str, float]:
    """Returns the time and the memory of one number of classes."""
    rng = np.random.default_rng(0)

    def drawn(*shape: int) -> np.ndarray:
        return rng.standard_normal(shape, dtype=np.float32)

    tables: dict[str, dict[str, tuple[int, ...]]] = {
        GRAY: {name: (classes, classes) for name in (*TRANSFORMS, "own gray data")},
        OCCLUSIONS: dict.fromkeys(OCCLUSION_COLOURS, (PARTS, PARTS, classes)),
        SYNTHETIC_SHAPES: dict.fromkeys(SHAPE_KINDS, (classes,)),
    }
    shadows, candidate = (
        {probe: {name: drawn(*first, *shape) for name, shape in of.items()} for probe, of in tables.items()}
        for first in ((SHADOWS,), ())
    )
    began, cpu = time.perf_counter(), time.process_time()
    with_one_blas_thread(measure_drift_scores)(shadows, candidate, range(classes), centred=True)
    return {
        "classes": classes,
        "seconds": time.perf_counter() - began,
        "cpu_s": time.process_time() - cpu,
        "peak_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
    }


if __name__ == "__main__":
    main()
