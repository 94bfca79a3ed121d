"""Workers as jobs of a Slurm cluster, by the library submitit."""

from __future__ import annotations

import os
import time

from pydrift.shadows.engines.job import POLL_S, Job, import_extra, last_error

_TIMEOUT_MIN = 24 * 60  # of a Slurm job; submitit's own default is five minutes


def run_slurm(job: Job) -> list[str]:
    """Submits one job per block and waits until all have ended; a sentence for each failure."""
    submitit, options = import_extra("submitit"), dict(job.options)
    executor = submitit.AutoExecutor(folder=job.folder / "logs", cluster=options.pop("cluster", None))
    if "slurm_time" not in options:
        options.setdefault("timeout_min", _TIMEOUT_MIN)
    executor.update_parameters(name="pydrift-shadows", slurm_array_parallelism=job.workers, **options)
    with executor.batch():
        work = submitit.helpers.CommandFunction(list(job.command), verbose=False, cwd=os.getcwd())
        submitted = [executor.submit(work) for _ in range(job.blocks)]
    while not all(one.done() for one in submitted):
        job.watch()
        time.sleep(POLL_S)
    job.watch()
    failed = [(one, one.exception()) for one in submitted]
    return [f"job {one.job_id} failed: {last_error(str(error))}" for one, error in failed if error is not None]
