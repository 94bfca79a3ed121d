"""Launchers of shadow workers: local processes, and Slurm and Ray as far as fakes of them go."""

import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from pydrift import PydriftError, UsageError
from pydrift.core.progress import Silent
from pydrift.shadows import collect
from pydrift.shadows.engines import launch, slurm
from tests.shadows.test_tasks import planned, pydrift


@pytest.fixture
def tasks(tmp_path):
    return planned(tmp_path / "tasks")


@pytest.mark.slow
def test_a_launcher_that_is_ended_ends_its_workers(tasks):
    code = """
import signal, subprocess, sys
from pathlib import Path

from pydrift.shadows.engines.job import Job
from pydrift.shadows.engines.local import run_local

def watch():
    print(*[child.pid for child in started], flush=True)

started, start = [], subprocess.Popen
subprocess.Popen = lambda *a, **k: started.append(start(*a, **k)) or started[-1]
worker = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(0.3), sys.exit(0)))"
run_local(Job((sys.executable, "-c", worker + "; time.sleep(60)"), 2, 2, Path(), {}, watch))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        workers = [int(pid) for pid in launcher.stdout.readline().split()]
        assert len(workers) == 2
        time.sleep(0.5)
        launcher.terminate()
        assert launcher.wait(30) == -signal.SIGTERM
    for pid in workers:  # gone, and not as a zombie either
        with pytest.raises(ProcessLookupError):
            os.kill(pid, 0)


def test_workers_end_when_their_launcher_is_killed():
    """SIGKILL leaves the launcher no time to end them."""
    code = """
import subprocess, sys
from pathlib import Path

from pydrift.shadows.engines.job import Job
from pydrift.shadows.engines.local import run_local

started, start = [], subprocess.Popen
subprocess.Popen = lambda *a, **k: started.append(start(*a, **k)) or started[-1]
worker = "import sys, time; sys.argv = ['pydrift', '--help']; import pydrift.cli as cli; "
worker += "cli.app = lambda **_: time.sleep(60); cli.main()"
run_local(Job((sys.executable, "-c", worker), 2, 2, Path(), {}, lambda: print(*[c.pid for c in started], flush=True)))
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as launcher:
        workers = [int(pid) for pid in launcher.stdout.readline().split()]
        time.sleep(1.0)  # until they run the command line
        launcher.kill()
    deadline = time.monotonic() + 5
    while any(map(is_running, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert len(workers) == 2
    assert not any(map(is_running, workers))


def is_running(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().split()[2] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize(
    ("options", "stated"),
    [
        ({}, {"timeout_min": 1440}),
        ({"timeout_min": 9}, {"timeout_min": 9}),
        ({"slurm_time": "2:00:00"}, {"slurm_time": "2:00:00"}),
    ],
)
def test_a_slurm_job_has_a_day_unless_said_otherwise(tasks, monkeypatch, options, stated):
    said = {}

    class Executor:
        def __init__(self, **where):
            pass

        def update_parameters(self, **parameters):
            said.update(parameters)
            raise KeyboardInterrupt

    monkeypatch.setattr(slurm, "import_extra", lambda name: SimpleNamespace(AutoExecutor=Executor))
    with pytest.raises(KeyboardInterrupt):
        launch(tasks, "submitit", 3, Silent(), options=options)
    assert said == {"name": "pydrift-shadows", "slurm_array_parallelism": 3, **stated}


def submitit_that_runs_here(said):
    """As much of submitit as is used; jobs run when they are submitted."""

    class Command:
        def __init__(self, command, verbose, cwd):
            self.run = partial(subprocess.run, command, cwd=cwd, capture_output=True, text=True)

    class Executor:
        def __init__(self, folder, cluster):
            said.append((folder, cluster))

        def update_parameters(self, **parameters):
            said.append(parameters)

        def batch(self):
            return nullcontext()

        def submit(self, command):
            done = command.run()
            error = RuntimeError(f"the job failed:\n{done.stderr}") if done.returncode else None
            return SimpleNamespace(job_id=f"7_{len(said)}", done=lambda: True, exception=lambda: error)

    return {"AutoExecutor": Executor, "helpers": SimpleNamespace(CommandFunction=Command)}


def ray_that_runs_here(said, initialised):
    """As much of Ray as is used; a task runs when it is waited for, one at a time."""

    class Remote:
        def __init__(self, function):
            self.function = function

        def options(self, num_cpus=None, **unknown):
            assert not unknown, f"Ray tasks have no option {min(unknown)}"
            said.append({"num_cpus": num_cpus})
            return Remote(self.function)

        def remote(self, *arguments):
            return partial(self.function, *arguments)

    def wait(running, timeout):
        said.append(len(running))
        return running[:1], running[1:]

    return {
        "is_initialized": lambda: initialised,
        "init": lambda **options: said.append(options),
        "remote": Remote,
        "wait": wait,
        "get": lambda task: task(),
    }


def install(monkeypatch, name, members):
    module = ModuleType(name)
    vars(module).update(members, __file__="of a test")
    monkeypatch.setitem(sys.modules, name, module)


@pytest.mark.slow
def test_submitit_runs_a_job_for_each_block(tmp_path, monkeypatch):
    tasks, said = planned(tmp_path / "tasks", 4), []
    install(monkeypatch, "submitit", submitit_that_runs_here(said))
    options = {"cluster": "slurm", "slurm_partition": "cpu"}
    launch(tasks, "submitit", 2, Silent(), options=options)
    assert len(collect(tasks.path)) == 4
    parameters = {"slurm_array_parallelism": 2, "slurm_partition": "cpu", "timeout_min": 1440}
    assert said == [(tasks.path / "logs", "slurm"), {"name": "pydrift-shadows", **parameters}]
    assert options == {"cluster": "slurm", "slurm_partition": "cpu"}


@pytest.mark.slow
@pytest.mark.parametrize("initialised", [False, True])
def test_ray_runs_a_task_for_each_block(tmp_path, monkeypatch, initialised):
    """The address is for ray.init; where Ray is there already it is of no use, and no option of tasks either."""
    tasks, said = planned(tmp_path / "tasks", 4), []
    install(monkeypatch, "ray", ray_that_runs_here(said, initialised))
    launch(tasks, "ray", 1, Silent(), options={"address": "auto", "num_cpus": 1})
    assert len(collect(tasks.path)) == 4
    begun = [] if initialised else [{"address": "auto", "log_to_driver": False}]
    assert said == [*begun, {"num_cpus": 1}, 1, 1]


@pytest.mark.slow
@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_jobs_that_fail_are_named(tmp_path, monkeypatch, name):
    tasks = planned(tmp_path / "tasks", 4)
    (tasks.path / "plan.json").write_text((tasks.path / "plan.json").read_text().replace("AVX", "XVA"))
    install(monkeypatch, name, submitit_that_runs_here([]) if name == "submitit" else ray_that_runs_here([], False))
    who = "job 7_2" if name == "submitit" else "a task"
    with pytest.raises(PydriftError, match=rf"2 of 2 blocks are not trained \({who} failed: .*differ.*; 1 more failed"):
        launch(tasks, name, 2, Silent())


@pytest.mark.parametrize("name", ["submitit", "ray"])
def test_a_launcher_that_is_not_installed_is_said(tasks, monkeypatch, name):
    monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UsageError, match=rf"^the launcher {name} is not installed: pip install 'pydrift\[{name}\]'$"):
        pydrift("train", tasks.path, "--workers", "1", "--launcher", name)
