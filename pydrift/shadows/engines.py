"""Starts workers on a folder of tasks: on this machine, on a Slurm cluster by submitit, or on a Ray cluster.

A worker is `pydrift shadow train DIR`: all that it needs to know is in the folder, so a launcher only has to run it,
and anything else that can run a command (a job array, cron, a shell on another machine) is as good. The folder must be
at the same path for all of them.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from types import FrameType
from typing import IO, Any

from pydrift.core.errors import PydriftError, UsageError
from pydrift.core.progress import Progress
from pydrift.shadows.tasks import TaskFolder

LAUNCHERS = ("local", "submitit", "ray")
_POLL_S = 0.5
_PATIENCE_S = 10.0  # for a worker that was asked to end
_TIMEOUT_MIN = 24 * 60  # of a Slurm job; submitit's own default is five minutes


def launch(
    tasks: TaskFolder,
    launcher: str,
    workers: int,
    progress: Progress,
    *,
    extra: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Has every block trained that is not, by `workers` workers at a time; returns when they have ended.

    launcher  "local": processes of this machine, which share its processors; "submitit": Slurm jobs, one per block;
              "ray": Ray tasks, one per block
    extra     further arguments of `pydrift shadow train`
    options   of submitit's AutoExecutor (cluster, timeout_min, by default a day, slurm_partition, ...), or of ray.init
              (address) and Ray tasks (num_cpus, ...)

    PydriftError where blocks are left, with the last words of the first worker that failed.
    """
    if launcher not in LAUNCHERS:
        raise UsageError(f"no such launcher: {launcher!r}; known are {', '.join(LAUNCHERS)}")
    if workers < 1:
        raise UsageError(f"the number of workers must be >= 1, got {workers}")
    if options and launcher == "local":
        raise UsageError(f"the local launcher takes no options, got {next(iter(options))}")
    command = [sys.executable, "-m", "pydrift", "shadow", "train", str(tasks.path.absolute()), *extra]
    missing = [block for block in tasks.blocks if not tasks.is_done(block)]
    progress.phase("training shadows", tasks.plan.count)
    if not missing:
        progress.advance(tasks.plan.count)
        return
    if launcher == "local":
        failures = _local(command, min(workers, len(missing)), _Watch(tasks, progress))
    else:
        run = _submitit if launcher == "submitit" else _ray
        one = [*command, "--claim-next"]
        failures = run(one, len(missing), workers, dict(options or {}), tasks, _Watch(tasks, progress))
    left = [block for block in tasks.blocks if not tasks.is_done(block)]
    if left:
        why = failures[0] if failures else "others are training them"
        why += f"; {len(failures) - 1} more failed" if len(failures) > 1 else ""
        raise PydriftError(f"{tasks.path}: {len(left)} of {len(tasks.blocks)} blocks are not trained ({why})")


class _Watch:
    """Tells the progress about blocks as they are published, whoever published them."""

    def __init__(self, tasks: TaskFolder, progress: Progress) -> None:
        self._tasks, self._progress, self._open = tasks, progress, list(tasks.blocks)

    def __call__(self) -> None:
        for block in [block for block in self._open if self._tasks.is_done(block)]:
            self._open.remove(block)
            self._progress.advance(len(self._tasks.numbers(block)))


def _local(command: Sequence[str], workers: int, watch: Callable[[], None]) -> list[str]:
    threads = max(1, len(os.sched_getaffinity(0)) // workers)
    environment = {"OMP_NUM_THREADS": str(threads), **os.environ}
    children: list[tuple[subprocess.Popen[bytes], IO[bytes]]] = []
    with _ended_with_us(children):
        for _ in range(workers):
            log = tempfile.TemporaryFile()  # noqa: SIM115 read when the child has ended
            child = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
            children.append((child, log))
        while any(child.poll() is None for child, _ in children):
            watch()
            time.sleep(_POLL_S)
        watch()
    return [_failure(number, child.returncode, log) for number, (child, log) in enumerate(children) if child.returncode]


def _failure(number: int, code: int, log: IO[bytes]) -> str:
    if code < 0:
        return f"worker {number} was killed by {signal.Signals(-code).name}"
    log.seek(0)
    return f"worker {number} ended with exit code {code}: {_last_words(log.read().decode(errors='replace'))}"


class _Ended(BaseException):
    """A signal that asks us to end."""

    def __init__(self, number: int) -> None:
        self.number = number


@contextmanager
def _ended_with_us(children: Sequence[tuple[subprocess.Popen[bytes], IO[bytes]]]) -> Iterator[None]:
    """SIGTERM and SIGINT to us end the children and wait for them first; so does an exception."""

    def end(number: int, frame: FrameType | None) -> None:
        raise _Ended(number)

    ours = [number for number in (signal.SIGTERM, signal.SIGINT) if signal.getsignal(number) != signal.SIG_IGN]
    before = {number: signal.signal(number, end) for number in ours}
    ended = None
    try:
        yield
    except _Ended as caught:
        ended = caught.number
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        for child, _ in children:
            child.terminate()  # nothing happens to one that has ended
        for child, _ in children:
            _wait_for(child)
    if ended is not None:
        signal.raise_signal(ended)


def _wait_for(child: subprocess.Popen[bytes]) -> None:
    try:
        child.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()


def _submitit(
    command: Sequence[str],
    jobs: int,
    workers: int,
    options: dict[str, Any],
    tasks: TaskFolder,
    watch: Callable[[], None],
) -> list[str]:
    submitit = _extra("submitit")
    executor = submitit.AutoExecutor(folder=tasks.path / "logs", cluster=options.pop("cluster", None))
    if "slurm_time" not in options:
        options.setdefault("timeout_min", _TIMEOUT_MIN)
    executor.update_parameters(name="pydrift-shadows", slurm_array_parallelism=workers, **options)
    with executor.batch():
        work = submitit.helpers.CommandFunction(list(command), verbose=False, cwd=os.getcwd())
        submitted = [executor.submit(work) for _ in range(jobs)]
    while not all(job.done() for job in submitted):
        watch()
        time.sleep(_POLL_S)
    watch()
    failed = [(job, job.exception()) for job in submitted]
    return [f"job {job.job_id} failed: {_last_words(str(error))}" for job, error in failed if error is not None]


def _ray(
    command: Sequence[str],
    jobs: int,
    workers: int,
    options: dict[str, Any],
    tasks: TaskFolder,
    watch: Callable[[], None],
) -> list[str]:
    ray = _extra("ray")
    address = options.pop("address", None)  # of ray.init, not of the tasks
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    work = ray.remote(_run).options(**options)
    waiting, failures = jobs, []
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < workers:
            running.append(work.remote(list(command), os.getcwd()))
            waiting -= 1
        ended, running = ray.wait(running, timeout=_POLL_S)
        watch()
        for task in ended:
            try:
                ray.get(task)
            except Exception as error:  # Ray's own, around whatever the task raised
                failures.append(f"a task failed: {_last_words(str(error))}")
    return failures


def _run(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stderr.strip()}")


def _last_words(text: str) -> str:
    """What a worker said last: its error, even where a launcher has wrapped it in words of its own."""
    lines = text.strip().splitlines() or ["no word why"]
    return next((line.partition("pydrift: ")[2] for line in reversed(lines) if "pydrift: " in line), lines[-1])


def _extra(name: str) -> Any:
    try:
        module = import_module(name)
    except ImportError:
        module = None
    if getattr(module, "__file__", None) is None:  # not there, or only a folder of that name
        raise UsageError(f"the launcher {name} is not installed: pip install 'pydrift[{name}]'")
    return module
