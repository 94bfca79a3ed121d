"""SIGTERM and SIGINT end the command line at once, also in the middle of a native call."""

import signal
import subprocess
import sys
import textwrap
import time

import pytest

from pydrift.ops import native_status

CALL = """
    import torch
    from pydrift.cli import _leave_on_signals
    from pydrift.models.arch import build, lower
    from pydrift.ops import AscentOptions, invert

    _leave_on_signals()
    network = lower(build("convnet:1x28x28:32,64:128:10", 0), (1, 28, 28))
    options = AscentOptions(
        optimizer="adam", learning_rate=0.05, beta1=0.9, beta2=0.999, epsilon=1e-8, tv_weight=0.0, l2_weight=0.0,
        lower=0.0, upper=1.0, confidence_threshold=2.0, patience=1_000_000,
    )
    x, parameters, zero = torch.rand(1, 1, 28, 28), network.parameters()[None], torch.zeros(1, dtype=torch.int32)
    print("begins", flush=True)
    invert(
        x, parameters, zero, zero, zero,
        program=network.program(), seed=0, jitter=2, max_steps=1_000_000, options=options,
    )  # minutes
"""


@pytest.mark.skipif(not native_status().cpu, reason="needs the native library")
def test_a_native_call_is_interrupted_within_a_second() -> None:
    command = [sys.executable, "-c", textwrap.dedent(CALL)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline() == b"begins\n"
        time.sleep(0.3)
        asked = time.monotonic()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 143
        assert time.monotonic() - asked < 1
        assert process.stderr.read() == b"pydrift: SIGTERM\n"
