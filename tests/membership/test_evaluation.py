"""The evaluation of one attack: its figures, its classes and its curve."""

import numpy as np

from pydrift.membership.evaluation import FPRS, evaluate, strongest
from pydrift.stats.roc import auc, balanced_accuracy_interval, roc, tpr_at_fpr


def test_the_interval_of_the_balanced_accuracy_is_that_of_the_curve():
    rng = np.random.default_rng(0)
    member = rng.random(300) < 0.4
    scores = np.round(rng.normal(size=300) + 0.7 * member, 1)
    result = evaluate("x", "an attack", scores, member, np.zeros(300, int), 2, alpha=0.1)
    assert result.balanced_accuracy_interval == balanced_accuracy_interval(roc(scores, member), alpha=0.1)


def test_constant_scores_are_named():
    result = evaluate("x", "an attack", np.zeros(100), np.arange(100) < 50, np.arange(100) % 2, 2)
    assert result.constant
    assert [rate.tpr for rate in result.tpr_at_fpr] == [0, 0]


def test_evaluation_has_every_class_and_a_thin_curve():
    rng = np.random.default_rng(5)
    member, y = np.arange(50_000) % 2 == 0, rng.integers(0, 3, 50_000)
    scores = rng.normal(size=50_000) + member
    member[y == 2] = True  # no non-members
    result = evaluate("x", "an attack", scores, member, y, 4)
    assert [c.index for c in result.classes] == [0, 1, 2, 3]
    assert result.classes[1].auc == auc(scores[y == 1], member[y == 1])[0]
    assert result.classes[1].tpr == tpr_at_fpr(roc(scores[y == 1], member[y == 1]), 0.01).tpr
    assert (result.classes[2].auc, result.classes[2].non_members) == (None, 0)
    assert (result.classes[3].auc, result.classes[3].members) == (None, 0)
    assert len(result.roc) <= 202
    assert result.roc[0] == (0, 0)
    assert result.roc[-1] == (1, 1)
    assert (np.diff(result.roc, axis=0) >= 0).all()
    assert [rate.fpr for rate in result.tpr_at_fpr] == list(FPRS)
    assert strongest([evaluate("y", "another", -scores, member, y, 4), result]) is result
