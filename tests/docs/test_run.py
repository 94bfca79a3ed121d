"""What README and docs show runs: commands with their outputs, Python blocks, examples."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.docs.blocks import blocks
from tests.docs.outputs import differing, fresh, output_name, words_of
from tests.docs.prose import ROOT

pytestmark = pytest.mark.slow

EXPECTED = {
    "own_training.py": ["benign: stable", "by another recipe: stable", "swapped: drift", "3", "8"],
    "membership_audit.py": ["too much: the limit is 5%", "acceptable: the limit is 5%"],
    "ownership_case.py": ["continued: stolen", "innocent: independent"],
    "fingerprint_service.py": ["noise: 200 of 200 rejected"],
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Where the quick start has run: models, calibration and reports lie there."""
    return tmp_path_factory.mktemp("quickstart")


@pytest.fixture(scope="module")
def outputs(folder):
    return fresh(folder)


def test_outputs_are_as_shown(outputs):
    assert {output_name(block) for block in blocks()} - {None} == set(outputs)
    assert differing(outputs) == []


def test_the_quick_start_leaves_what_it_says(folder, outputs):
    for name in ("demo/base.safetensors", "report/report.html", "gray.png", "base.fp", "membership", "ownership"):
        assert (folder / name).exists(), name


def environment():
    return {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def pages_with_python():
    return sorted({block.page for block in blocks("python")})


@pytest.mark.parametrize("page", pages_with_python(), ids=lambda page: str(page.relative_to(ROOT)))
def test_python_blocks_run(page: Path, folder, outputs, tmp_path):
    """All blocks of a page, one after the other in one program, beside what the quick start left."""
    code = [b.code for b in blocks("python") if b.page == page and not b.note.startswith("not executed")]
    shutil.copytree(folder / "demo", tmp_path / "demo")
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
def test_the_gate(candidate, code, says, folder, outputs, tmp_path):
    done = gate(folder / "calibration", folder / "demo" / f"{candidate}.safetensors", tmp_path)
    assert done.returncode == code, done.stderr
    assert says in done.stdout
    assert (tmp_path / "report" / "report.html").exists()


def test_the_gate_tells_a_failure_from_drift(folder, outputs, tmp_path):
    done = gate(folder / "calibration", tmp_path / "none.safetensors", tmp_path)
    assert done.returncode not in (0, 1, 3)
    assert "failed" in done.stderr


def gate(calibration, candidate, tmp_path):
    """Runs examples/ci_gate/gate.sh with a `pydrift` of this checkout."""
    program = tmp_path / "bin" / "pydrift"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m pydrift "$@"\n')
    program.chmod(0o755)
    path = f"{program.parent}{os.pathsep}{os.environ['PATH']}"
    return subprocess.run(
        ["bash", ROOT / "examples" / "ci_gate" / "gate.sh", calibration, candidate, tmp_path / "report"],
        env={**environment(), "PATH": path}, capture_output=True, text=True,
    )  # fmt: skip


def test_words_without_numbers():
    assert words_of("a  1.5\n───\nb -2e-3 c\n") == ["a 0", "b 0 c"] == words_of("b 7 c\na 1\n")
