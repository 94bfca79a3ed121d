"""The drift suite has candidates enough of every kind, and its tables say what its rows say."""

from collections import Counter

import pytest

from bench.drift.candidates import candidates, datasets
from bench.drift.summary import accuracy_blind, summary


@pytest.mark.parametrize(
    ("name", "benign", "drifted"),
    [("fashion-mnist", 60, 100), ("mnist", 30, 50), ("cifar10", 30, 50), ("digits", 30, 50)],
)
def test_enough_candidates_of_every_kind_and_strength(name, benign, drifted):
    data = datasets("data")[name]
    every = candidates(data)
    assert sum(c.benign for c in every) >= benign
    assert sum(not c.benign for c in every) >= drifted
    kinds = {c.kind for c in every if not c.benign}
    assert len(kinds) == (11 if data.foreign else 10)
    counts = Counter((c.kind, c.strength) for c in every if not c.benign)
    assert set(counts) >= {(kind, strength) for kind in kinds for strength in range(3)}
    assert len({c.seed for c in every}) == len(every)
    assert {c.base for c in every} == set(range(data.bases))
    assert {c.kind for c in every if c.benign} >= {"same recipe", "augmentation", "label smoothing", "more data"}


def row(score, first=None, *, alarm=False, drift=None, classes=(), moved=0.0, named=()):
    """A row of two methods: the one that is tried, and what accuracy on current data says."""
    method = {"score": score, "first": first, "alarm": alarm, "named": list(named)}
    return {
        "candidate": {"drift": drift, "classes": list(classes)},
        "methods": {"tried": method, "accuracy, current set": {"score": moved}},
    }


def test_summary_by_hand():
    benign = [row(score, alarm=score == 1.9) for score in (0.0, 1.0, 1.5, 1.9)]
    found = row(3.0, 7, alarm=True, drift="flip:7", classes=(7,), named=(7, 8))
    hidden = row(1.2, 2, drift="flip:1", classes=(1,), moved=0.5)
    silent = row(1.7, None, alarm=True, drift="noise:.1", named=(3,))  # of no class of its own
    line = summary([*benign, found, hidden, silent], "tried")
    assert line["auroc"] == pytest.approx((4 + 2 + 3) / 12)
    assert line["found_at_5"] == pytest.approx(1 / 3)  # beyond 1.84, the benign scores' 95 % quantile
    assert line["first"] == 0.5
    assert (line["named_right"], line["named_found"]) == (0.5, 1.0)
    assert (line["found"], line["false_alarms"]) == (pytest.approx(2 / 3), 0.25)
    assert line["interval"] == pytest.approx([0.00631, 0.80588], abs=1e-4)  # Clopper-Pearson, 1 of 4
    assert (line["drifted"], line["benign"]) == (3, 4)
    assert summary([*benign, found, hidden, silent], "tried", accuracy_blind)["drifted"] == 2


def test_a_method_that_names_no_class_is_wrong_and_one_that_never_does_has_no_figure():
    benign, drifted = [row(0.0), row(1.0)], [row(2.0, c, drift="flip:7", classes=(7,)) for c in (7, None)]
    assert summary([*benign, *drifted], "tried")["first"] == 0.5
    assert summary([*benign, drifted[1]], "tried")["first"] is None
