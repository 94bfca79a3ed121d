"""Workers as tasks of a Ray cluster."""

from __future__ import annotations

import os
import subprocess
from typing import Any

from pydrift.shadows.engines.job import POLL_S, Job, import_extra, last_error


def run_ray(job: Job) -> list[str]:
    """Runs one task per block, at most `job.workers` at a time, until all have ended; a sentence for each failure."""
    ray, options = import_extra("ray"), dict(job.options)
    address = options.pop("address", None)  # of ray.init, not of the tasks
    if not ray.is_initialized():
        ray.init(address=address, log_to_driver=False)
    work = ray.remote(_run_command).options(**options)
    waiting, failures = job.blocks, []
    running: list[Any] = []
    while waiting or running:
        while waiting and len(running) < job.workers:
            running.append(work.remote(list(job.command), os.getcwd()))
            waiting -= 1
        ended, running = ray.wait(running, timeout=POLL_S)
        job.watch()
        for task in ended:
            try:
                ray.get(task)
            except Exception as error:  # Ray's own, around whatever the task raised
                failures.append(f"a task failed: {last_error(str(error))}")
    return failures


def _run_command(command: list[str], folder: str) -> None:
    done = subprocess.run(command, cwd=folder, stdin=subprocess.DEVNULL, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"exit code {done.returncode}\n{done.stderr.strip()}")
