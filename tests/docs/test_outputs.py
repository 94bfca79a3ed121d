"""The commands of the quick start do what it says, and print what it and the README show."""

import shutil

import pytest

from tests.docs.blocks import blocks
from tests.docs.outputs import differing, fresh, output_name, sections, words_of

# Files and folders that a section says it leaves.
LEFT = {
    "Audit a candidate": ["calibration", "report/report.html"],
    "Train your own models": ["base.safetensors", "flipped.safetensors", "gray.npz", "gray.png"],
    "Membership audit": ["membership"],
    "Ownership audit": ["ownership"],
    "Fingerprint": ["base.fp"],
    "From Python": [],  # see test_run.py
}


@pytest.mark.slow
@pytest.mark.parametrize("section", sections())
def test_outputs_are_as_shown(section, demo, tmp_path):
    shutil.copytree(demo / "demo", tmp_path / "demo")
    assert differing(fresh(sections()[section], tmp_path)) == []
    assert [name for name in LEFT[section] if not (tmp_path / name).exists()] == []


def test_every_output_is_that_of_a_section():
    made = {output_name(block) for section in sections().values() for block in section}
    assert {output_name(block) for block in blocks()} == made


def test_words_without_numbers():
    assert words_of("a  1.5\n───\nb -2e-3 c\n") == ["a 0", "b 0 c"] == words_of("b 7 c\na 1\n")
