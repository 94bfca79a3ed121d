"""The scripts of bench/ are where README, docs and gpu.sh say, they are short, and the committed records are read."""

import ast
import re
import sys
from pathlib import Path

import pytest
import torch

from bench.common.intervals import exact_interval
from bench.common.odd_shapes import ARCHITECTURES, call_ops
from bench.drift import tables
from pydrift.ops import native_status
from pydrift.stats.intervals import clopper_pearson

ROOT = Path(__file__).parents[2]
BENCH = ROOT / "bench"
MODULE = re.compile(r"\bbench\.[a-z_]+\.[a-z_]+\b")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60  # lines


def is_script(path):
    return '\nif __name__ == "__main__":\n' in path.read_text()


def test_every_script_is_in_the_table_and_every_row_is_a_script():
    scripts = {f"bench.{path.parent.name}.{path.stem}" for path in BENCH.rglob("*.py") if is_script(path)}
    named = set(MODULE.findall((BENCH / "README.md").read_text()))
    assert named == scripts - {"bench.common.odd_shapes"}  # the sanitizer's


@pytest.mark.parametrize("path", [BENCH / "gpu.sh", *BENCH.rglob("*.py")], ids=lambda p: str(p.relative_to(BENCH)))
def test_modules_that_are_named_exist(path):
    for name in MODULE.findall(path.read_text()):
        assert (ROOT / Path(*name.split("."))).with_suffix(".py").exists(), name


def test_files_and_functions_are_short_enough_to_read():
    for path in BENCH.rglob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) <= LONGEST_FILE, path
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef):
                body = node.body[1:] if ast.get_docstring(node) else node.body
                assert node.end_lineno - body[0].lineno < LONGEST_FUNCTION, f"{path}: {node.name}"


def test_the_committed_records_give_the_tables(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["tables", str(BENCH / "results" / "drift_suite_digits.json")])
    tables.main()
    rows = capsys.readouterr().out.splitlines()
    assert "| benign, drifted judgements | 332, 180 |" in rows
    assert "| found by the own rule at 0.05, in the worst draw | 95 %, 93 % |" in rows
    assert "| AUROC | .985 |" in rows
    page = (ROOT / "docs" / "evaluation" / "drift.md").read_text().splitlines()
    assert set(rows) - {""} <= set(page)  # the page shows what the command prints


@pytest.mark.skipif(not native_status().cpu, reason="the native CPU library is not loaded")
@pytest.mark.parametrize("arch", ARCHITECTURES)
def test_what_the_sanitizer_follows_runs(arch):
    call_ops(arch, torch.device("cpu"))


@pytest.mark.parametrize(("count", "total"), [(0, 36), (1, 36), (5, 24), (24, 24)])
def test_the_exact_interval_is_that_of_clopper_and_pearson(count, total):
    low, high = clopper_pearson(count, total)
    assert exact_interval(count, total) == pytest.approx((float(low), float(high)), abs=1e-9)
