"""A drift audit in words: headlines, drift scores, places."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pydrift.report import drift_wording as wording
from pydrift.report.drift import render_drift_html
from tests.report.drift_reports import HOSTILE, POWER, make, stable


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        (((3.0,),), "+3.00 at the top left (row 1 of 1, column 1 of 1)"),
        (((0.0, 0.0, 0.0), (0.0, -7.0, 1.0), (0.0, 0.0, 0.0)), "-7.00 at the middle (row 2 of 3, column 2 of 3)"),
        (((None, None),), "nowhere"),
    ],
)
def test_places_in_words(rows, words):
    assert wording.strongest_place(rows) == words


def test_sizes_between_the_points_of_a_power_curve():
    assert wording.size_found(POWER, 0.5) == pytest.approx(4)
    assert wording.size_found(POWER, 0.9) == pytest.approx(7.2)
    assert wording.size_found(POWER[:3], 0.9) is None
    assert wording.size_found((), 0.9) is None


def test_headlines() -> None:
    assert wording.headline(make(drifted=(8, 3))).endswith("concept of 2 classes has changed: class 3, class 8.")
    many = wording.headline(make(drifted=(0, 1, 2, 3, 4, 5)))
    assert many.endswith("concept of 6 classes has changed: class 5, class 4, class 3, class 2 and 2 more.")
    report = stable()
    finetune = replace(report, null=replace(report.null, update_mode="finetune"))
    assert wording.headline(finetune) == "Stable: no class's concept changed more than benign fine-tuning changes it."


@pytest.mark.parametrize(
    ("drift_score", "text"),
    [(None, "n/a"), (0.0, "0.00"), (-0.001, "0.00"), (27.126, "27.13"), (-3.0, "-3.00"), (12345.0, "1.23e+04")],
)
def test_drift_scores_as_text(drift_score: float | None, text: str) -> None:
    assert wording.score_text(drift_score) == text


def test_only_the_probes_in_which_the_candidate_differs_most_are_shown() -> None:
    c = make().classes[3]
    assert wording.strongest_signals(c) == [("noisy", 20.0), ("plain", 19.0), ("own gray data", 18.0)]
    assert "mirrored" not in render_drift_html(make())
    assert wording.strongest_signals(replace(c, signals={"b": 1.0, "a": 1.0})) == [("a", 1.0), ("b", 1.0)]
    assert wording.strongest_signals(replace(c, signals={})) == []
    assert wording.strongest_signals(replace(c, signals={HOSTILE[2]: 0.0})) == [(r"a\x1b[31mb\x00\x07\u202ec\nd", 0.0)]


def test_classes_of_equal_p_stand_by_their_drift_score():
    report = make(drifted=(2, 7, 4))
    assert [c.index for c in wording.by_p(report)][:3] == [4, 7, 2]
