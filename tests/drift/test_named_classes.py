"""Which classes a verdict names: those whose own concept changed, and not all that are told from them."""

import numpy as np
import pytest

from pydrift.drift.verdict import _listed
from tests.synthetic_responses import apart, benign, drifted, judged, world


def test_classes_that_differ_only_from_the_one_that_drifted_are_not_named():
    rng = np.random.default_rng(24)
    shadows, new = apart(benign(rng, world(rng, 6), 33))
    verdict = judged(shadows, drifted(new, 2, 25))
    differ = [c for c in verdict.classes if c.p_adjusted <= 0.05]
    assert len(differ) > 1  # all have pairs with it
    assert [c.index for c in verdict.classes if c.verdict == "drift"] == [2]
    why = "differs less, and perhaps only relative to the classes that drifted (class 2)"
    assert {(c.verdict, c.reason) for c in differ if c.index != 2} == {("related", why)}
    (reason,) = verdict.reasons
    assert reason == f"classes class 0, class 1, class 3, class 4, class 5: {why.replace('differs', 'differ')}"
    assert (verdict.verdict, verdict.p_value) == ("drift", verdict.classes[2].p_adjusted)


@pytest.mark.parametrize("size", [-20, -8, 20])
def test_a_moved_logit_names_its_class_alone(size):
    """A class whose logit moved on all images. All probes show it, and occlusions and shapes compare every other class
    with a mean that it is part of."""
    rng, classes = np.random.default_rng(29), 8
    wrong, right = 0, 0
    for label in range(classes):
        shadows, new = apart(benign(rng, world(rng, classes), 33))
        for table in new["gray data"].values():
            table[label, :] += size
            table[:, label] -= size
        occluded = new["occlusions"]["white occlusions"]
        occluded -= size / classes
        occluded[..., label] += size
        named = [c.index for c in judged(shadows, new).classes if c.verdict == "drift"]
        right += label in named
        wrong += len(set(named) - {label})
    assert right == classes
    assert wrong <= 2


def test_where_all_have_drifted_none_passes_and_the_first_are_named():
    rng = np.random.default_rng(30)
    shadows, new = apart(benign(rng, world(rng, 6), 33))
    for table in new["gray data"].values():
        table += rng.normal(0, 30, table.shape)
    verdict = judged(shadows, new)
    assert {c.verdict for c in verdict.classes} == {"drift", "related"}
    assert sum(c.verdict == "drift" for c in verdict.classes) >= 2


def test_a_reason_names_some_classes_and_counts_the_rest():
    assert _listed(["a", "b"]) == "a, b"
    assert _listed(["a", "b", "c", "d"]) == "a, b, c, d"
    assert _listed(["a", "b", "c", "d", "e", "f"]) == "a, b, c, d and 2 more"


def test_two_drifts_are_both_named():
    rng = np.random.default_rng(25)
    shadows, new = apart(benign(rng, world(rng, 7), 33))
    verdict = judged(shadows, drifted(drifted(new, 2, 25), 5, 18))
    assert [c.index for c in verdict.classes if c.verdict == "drift"] == [2, 5]


def test_classes_that_have_changed_places_are_both_named():
    rng = np.random.default_rng(26)
    shadows, new = apart(benign(rng, world(rng, 7), 33))
    for values in new["gray data"].values():
        values[1, 4] -= 60  # each is told from the other in another way, and from the rest as before
        values[4, 1] -= 60
    verdict = judged(shadows, new)
    assert [c.index for c in verdict.classes if c.verdict == "drift"] == [1, 4]


def test_of_three_classes_all_that_differ_are_named():
    rng = np.random.default_rng(27)
    shadows, new = apart(benign(rng, world(rng, 3), 33))
    verdict = judged(shadows, drifted(new, 0, 40))
    assert {c.verdict for c in verdict.classes if c.p_adjusted <= 0.05} == {"drift"}
    assert len([c for c in verdict.classes if c.verdict == "drift"]) > 1
