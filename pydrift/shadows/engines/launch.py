"""Has all blocks of a folder of tasks trained by the launcher of a given name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pydrift.core.errors import PydriftError, UsageError
from pydrift.core.progress import Progress
from pydrift.shadows.engines.job import Job
from pydrift.shadows.engines.local import run_local
from pydrift.shadows.engines.ray import run_ray
from pydrift.shadows.engines.slurm import run_slurm
from pydrift.shadows.tasks import TaskFolder

LAUNCHERS: dict[str, Callable[[Job], list[str]]] = {"local": run_local, "submitit": run_slurm, "ray": run_ray}
"""Launchers by name. Each runs a job to its end and returns one sentence for each worker that failed."""


def launch(
    tasks: TaskFolder,
    launcher: str,
    workers: int,
    progress: Progress,
    *,
    extra: Sequence[str] = (),
    options: Mapping[str, Any] | None = None,
) -> None:
    """Has all blocks trained that are not trained yet, by `workers` workers at a time. Returns when they have ended.

    launcher  "local": processes on this machine, which share its processors; "submitit": Slurm jobs, one per block;
              "ray": Ray tasks, one per block
    extra     further arguments of `pydrift shadow train`
    options   of submitit's AutoExecutor (cluster, slurm_partition, timeout_min, which is one day by default, ...), or
              of ray.init (address) and of Ray tasks (num_cpus, ...)

    UsageError: an unknown launcher, no workers, or options for the local launcher. PydriftError where blocks are left;
    it quotes the error of the first worker that failed.
    """
    if launcher not in LAUNCHERS:
        raise UsageError(f"no such launcher: {launcher!r}; known are {', '.join(LAUNCHERS)}")
    if workers < 1:
        raise UsageError(f"the number of workers must be >= 1, got {workers}")
    if options and launcher == "local":
        raise UsageError(f"the local launcher takes no options, got {next(iter(options))}")
    left = _blocks_left(tasks)
    progress.phase("training shadows", tasks.plan.count)
    if not left:
        progress.advance(tasks.plan.count)
        return
    command = [sys.executable, "-m", "pydrift", "shadow", "train", str(tasks.path.absolute()), *extra]
    if launcher != "local":
        command.append("--claim-next")  # one job trains one block
    job = Job(tuple(command), len(left), workers, tasks.path, dict(options or {}), _BlockWatch(tasks, progress))
    failures = LAUNCHERS[launcher](job)
    if left := _blocks_left(tasks):
        why = failures[0] if failures else "other workers are training them"
        why += f"; {len(failures) - 1} more failed" if len(failures) > 1 else ""
        raise PydriftError(f"{tasks.path}: {len(left)} of {len(tasks.blocks)} blocks are not trained ({why})")


def _blocks_left(tasks: TaskFolder) -> list[int]:
    return [block for block in tasks.blocks if not tasks.is_done(block)]


class _BlockWatch:
    """Advances the progress for each block that was published since the last call, by whatever worker."""

    def __init__(self, tasks: TaskFolder, progress: Progress) -> None:
        self._tasks, self._progress, self._open = tasks, progress, list(tasks.blocks)

    def __call__(self) -> None:
        for block in [block for block in self._open if self._tasks.is_done(block)]:
            self._open.remove(block)
            self._progress.advance(len(self._tasks.numbers(block)))
