"""The Python blocks of README and docs and the examples run. For commands see test_outputs.py."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.docs.prose import ROOT

pytestmark = pytest.mark.slow

EXPECTED = {
    "own_training.py": ["benign: stable", "by another recipe: stable", "swapped: drift", "3", "8"],
    "membership_audit.py": ["too much: the limit is 5%", "acceptable: the limit is 5%"],
    "ownership_case.py": ["continued: stolen", "innocent: independent"],
    "fingerprint_service.py": ["noise: 200 of 200 rejected"],
}


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pages_with_python():
    return sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, demo, tmp_path):
    """All blocks of a page, one after the other in one program, beside what the demo and `pydrift calibrate` leave."""
    code = [b.code for b in blocks("python") if b.page == page and not b.note.startswith("not executed")]
    shutil.copytree(demo / "demo", tmp_path / "demo")
    shutil.copytree(demo / "demo" / "calibration", tmp_path / "calibration")
    done = subprocess.run(
        [sys.executable, "-c", "\n".join(code)], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("example", sorted(EXPECTED))
def test_examples_run(example, tmp_path):
    done = subprocess.run(
        [sys.executable, ROOT / "examples" / example], cwd=tmp_path, env=environment(), capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [part for part in EXPECTED[example] if part not in done.stdout] == []


def test_every_example_is_run():
    assert {path.name for path in (ROOT / "examples").glob("*.py")} == set(EXPECTED)


@pytest.mark.parametrize(("candidate", "code", "says"), [("benign", 0, "stable"), ("drifted", 1, "drift, see")])
def test_the_gate(candidate, code, says, demo, tmp_path):
    done = gate(demo / "demo", f"{candidate}.safetensors", tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout
    assert (tmp_path / "report" / "report.html").exists()


def test_the_gate_tells_a_failure_from_drift(demo, tmp_path):
    done = gate(demo / "demo", "none.safetensors", tmp_path)
    assert done.returncode not in (0, 1, 3)
    assert "failed" in done.stderr


def gate(folder, candidate, tmp_path):
    """Runs examples/ci_gate/gate.sh with a `pydrift` of this checkout."""
    program = tmp_path / "bin" / "pydrift"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pydrift "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    script = ROOT / "examples" / "ci_gate" / "gate.sh"
    return subprocess.run(
        ["bash", script, folder / "calibration", folder / candidate, tmp_path / "report"],
        env={**environment(), "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip
