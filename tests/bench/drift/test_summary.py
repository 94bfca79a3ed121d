"""The drift suite has candidates enough of every kind, and its tables say what its rows say."""

from collections import Counter

import numpy as np
import pytest
import torch

from bench.drift.broken import broken, problem
from bench.drift.candidates import (
    DRIFT,
    DRIFT_IN_RANGE,
    IN_RANGE,
    OUTSIDE,
    RECIPE,
    SAME,
    candidates,
    changes_outside,
    datasets,
)
from bench.drift.summary import OURS, OURS_UNKNOWN, accuracy_blind, clustered, shares, summary, upper_limit


@pytest.mark.parametrize(("name", "drifted"), [("fashion-mnist", 100), ("mnist", 50), ("cifar10", 50), ("digits", 50)])
def test_enough_candidates_of_every_group_kind_and_strength(name, drifted):
    data = datasets("data")[name]
    every = candidates(data)
    groups = Counter(c.group for c in every)
    assert groups[SAME] == groups[IN_RANGE] >= 200
    assert groups[DRIFT] == groups[DRIFT_IN_RANGE] >= drifted
    kinds = {c.kind for c in every if c.group == DRIFT}
    assert len(kinds) == (11 if data.foreign else 10)
    counts = Counter((c.kind, c.strength) for c in every if c.group == DRIFT)
    assert set(counts) >= {(kind, strength) for kind in kinds for strength in range(3)}
    assert len({c.seed for c in every}) == len(every)
    for group in groups:
        assert {c.base for c in every if c.group == group} == set(range(data.bases))


def test_recipes_are_where_their_groups_say():
    data = datasets("data")["digits"]
    for c in candidates(data):
        if c.group in (SAME, DRIFT):
            assert c.recipe == RECIPE
        elif c.group != OUTSIDE:
            assert not RECIPE.outside_varied(c.recipe, data.size)
    outside = changes_outside(data)
    assert [kind for kind, (recipe, _, _) in outside.items() if not RECIPE.outside_varied(recipe, data.size)] == [
        "20 % more data",
        "30 % less data",
        "half of one class",
    ]


def row(score, first=None, *, alarm=False, group=DRIFT, classes=(), moved=0.0, named=(), draw=0, kind="flip"):
    """A row of two methods: the one that is tried, and what accuracy on current data says."""
    method = {"score": score, "first": first, "alarm": alarm, "named": list(named)}
    return {
        "candidate": {"group": group, "classes": list(classes), "base": 0, "kind": kind},
        "draw": draw,
        "methods": {"tried": method, "accuracy, current set": {"score": moved}},
    }


def test_summary_by_hand():
    benign = [row(score, alarm=score == 1.9, group=SAME) for score in (0.0, 1.0, 1.5, 1.9)]
    found = row(3.0, 7, alarm=True, classes=(7,), named=(7, 8))
    hidden = row(1.2, 2, classes=(1,), moved=0.5, draw=1)
    silent = row(1.7, None, alarm=True, named=(3,))  # of no class of its own
    other = row(9.0, group=IN_RANGE)
    rows = [*benign, found, hidden, silent, other]
    line = summary(rows, "tried")
    assert line["auroc"] == pytest.approx((4 + 2 + 3) / 12)
    assert line["found_at_5"] == pytest.approx(1 / 3)  # beyond 1.84, the benign scores' 95 % quantile
    assert line["first"] == 0.5
    assert (line["named_right"], line["named_found"]) == (0.5, 1.0)
    assert (line["found"], line["worst"], line["false_alarms"]) == (pytest.approx(2 / 3), 0.0, 0.25)
    assert line["limit"] == pytest.approx(0.75139, abs=1e-4)  # the exact upper limit of 1 of 4
    assert (line["drifted"], line["benign"]) == (3, 4)
    assert summary(rows, "tried", keep=accuracy_blind)["drifted"] == 2


def test_p_orders_candidates_where_there_is_one():
    def judged(group, p):
        method = {"score": 5.0, "p": p, "alarm": p <= 0.05, "first": 0, "named": [], "verdict": "stable", "outside": 0}
        about = {"group": group, "classes": [0], "base": 0, "kind": "swap"}
        return {"candidate": about, "draw": 0, "methods": {OURS: method}}

    line = summary([*(judged(SAME, p) for p in (0.1, 0.3, 0.9)), judged(DRIFT, 0.2), judged(DRIFT, 1e-9)], OURS)
    assert line["auroc"] == pytest.approx((2 + 3) / 6)
    assert (line["p_02"], line["p_05"]) == (pytest.approx(1 / 3), pytest.approx(2 / 3))


def test_candidates_of_one_calibration_share_its_luck():
    together = np.repeat([1.0, 0.0, 0.0, 0.0], 25)
    clusters = [(0, k) for k in range(4) for _ in range(25)]
    alone = [(0, k) for k in range(100)]
    low, high = clustered(together, clusters)
    assert (low, high) == (0.0, 0.75)
    assert clustered(together, alone)[1] < 0.4
    assert upper_limit(np.zeros(59, bool), [(0, 0)] * 59) == pytest.approx(1 - 0.05 ** (1 / 59))


def test_shares_of_what_is_said_of_outsiders():
    def said(verdict, outside, kind):
        method = {"alarm": verdict == "drift", "verdict": verdict, "outside": outside}
        about = {"group": OUTSIDE, "base": 0, "kind": kind}
        return {"candidate": about, "draw": 0, "methods": {OURS_UNKNOWN: method}}

    rows = [said("drift", False, "SGD"), said("inconclusive", True, "SGD"), said("stable", False, "mirrored")]
    assert shares(rows, OURS_UNKNOWN, OUTSIDE, "SGD") == {"candidates": 2, "drift": 0.5, "recipe": 0.5, "stable": 0.0}


def test_a_method_that_names_no_class_is_wrong_and_one_that_never_does_has_no_figure():
    benign, drifted = [row(0.0, group=SAME), row(1.0, group=SAME)], [row(2.0, c, classes=(7,)) for c in (7, None)]
    assert summary([*benign, *drifted], "tried")["first"] == 0.5
    assert summary([*benign, drifted[1]], "tried")["first"] is None


def test_broken_models_are_broken():
    """Each kind is another function than the base, and most know the classes no more."""
    data = problem(3)
    assert set(data.y.tolist()) == {0, 1, 2}

    torch.manual_seed(1)
    base = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3))
    found = dict(broken(base, 3))
    assert len(found) == 7
    with torch.no_grad():
        before = base(data.x[:50])
        assert torch.equal(found["labels permuted"](data.x[:50]), before[:, [2, 0, 1]])
        assert torch.equal(found["two exchanged"](data.x[:50]), before[:, [1, 0, 2]])
        assert torch.equal(found["logits negated"](data.x[:50]), -before)
        assert all(not torch.allclose(model(data.x[:50]), before) for model in found.values())
