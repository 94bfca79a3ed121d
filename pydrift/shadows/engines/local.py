"""Workers as processes on this machine."""

from __future__ import annotations

import os
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from types import FrameType
from typing import IO

from pydrift.shadows.engines.job import BLOCKS_LEFT, ENDS_WITH_STDIN, POLL_S, Job, last_error

_PATIENCE_S = 10.0  # for a worker that was asked to end


def run_local(job: Job) -> list[str]:
    """Runs the workers, each with its share of the processors, until all have ended; a sentence for each failure."""
    workers = min(job.workers, job.blocks)
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    # They end when their stdin does, so also when this process is killed. What they print is in a file.
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ, ENDS_WITH_STDIN: "1"}
    children: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    with _end_children_with_us(children):
        for _ in range(workers):
            log = tempfile.TemporaryFile()  # noqa: SIM115 it is read when the child has ended
            child = subprocess.Popen(job.command, env=environment, stdin=subprocess.PIPE, stdout=log, stderr=log)
            children.append((child, log))
        while any(child.poll() is None for child, _ in children):
            job.watch()
            time.sleep(POLL_S)
        job.watch()
    failed = [(n, child, log) for n, (child, log) in enumerate(children) if child.returncode not in (0, BLOCKS_LEFT)]
    return [_failure(number, child.returncode, log) for number, child, log in failed]


def _failure(number: int, code: int, log: IO[bytes]) -> str:
    if code < 0:
        return f"worker {number} was killed by {signal.Signals(-code).name}"
    log.seek(0)
    return f"worker {number} ended with exit code {code}: {last_error(log.read().decode(errors='replace'))}"


class _SignalReceived(BaseException):
    """A signal that asks this process to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _end_children_with_us(children: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> Iterator[None]:
    """Ends the children, and waits for them, before SIGTERM, SIGINT or an exception ends this process."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _SignalReceived(number)

    ours = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ours}
    received = None
    try:
        yield
    except _SignalReceived as caught:
        received = caught.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child, _ in children:
            child.terminate()  # does nothing to a child that has ended
        for child, _ in children:
            _wait_for(child)
    if received is not None:
        signal.raise_signal(received)


def _wait_for(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
