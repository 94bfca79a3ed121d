"""ROC figures against slow definitions, their intervals against simulation, and degenerate scores."""

import numpy as np
import pytest
from sklearn.metrics import roc_auc_score, roc_curve

from pydrift import UsageError
from pydrift.stats.intervals import clopper_pearson
from pydrift.stats.roc import (
    auc,
    balanced_accuracy,
    balanced_accuracy_interval,
    false_positive_rate_of,
    roc,
    tpr_at_fpr,
)


def scores_with_ties(images=300, seed=0):
    rng = np.random.default_rng(seed)
    member = rng.random(images) < 0.4
    return np.round(rng.normal(size=images) + 0.7 * member, 1), member


def test_the_roc_curve_has_one_point_per_distinct_score():
    scores, member = scores_with_ties()
    curve = roc(scores, member)
    assert curve.threshold.tolist() == [np.inf, *sorted(set(scores), reverse=True)]
    for threshold, true, false in zip(curve.threshold, curve.true_positives, curve.false_positives, strict=True):
        assert true == sum(m and s >= threshold for s, m in zip(scores, member, strict=True))
        assert false == sum(not m and s >= threshold for s, m in zip(scores, member, strict=True))
    assert (curve.members, curve.non_members) == (member.sum(), (~member).sum())
    theirs = roc_curve(member, scores, drop_intermediate=False)
    np.testing.assert_allclose(np.stack([curve.fpr, curve.tpr]), np.stack(theirs[:2]))


def test_auc_is_the_chance_that_a_member_scores_higher():
    scores, member = scores_with_ties()
    pairs = scores[member][:, None] - scores[~member][None, :]
    expected = ((pairs > 0) + 0.5 * (pairs == 0)).mean()
    area, low, high = auc(scores, member)
    assert area == pytest.approx(expected, rel=1e-12)
    assert area == pytest.approx(roc_auc_score(member, scores), rel=1e-12)
    assert low < area < high
    assert auc(-scores, member)[0] == pytest.approx(1 - expected, rel=1e-12)


def test_the_interval_of_the_auc_covers_it_as_often_as_it_says():
    rng = np.random.default_rng(1)
    truth, covered = 0.7602499389065233, 0  # of normal distributions one standard deviation apart: Phi(1 / sqrt 2)
    member = np.arange(120) < 60
    for _ in range(400):
        _, low, high = auc(rng.normal(size=120) + member, member)
        covered += low <= truth <= high
    assert 0.92 <= covered / 400 <= 0.98


def test_perfect_separation_of_few_images_is_no_certainty():
    """DeLong's variance is 0 there. The lower end is the AUC at which five pairs of five agree once in forty times."""
    scores, member = np.arange(10.0), np.arange(10) >= 5
    area, low, high = auc(scores, member)
    assert (area, high) == (1, 1)
    assert low == pytest.approx(0.025 ** (1 / 5))
    assert auc(-scores, member) == (0, 0, pytest.approx(1 - low))
    assert auc(np.r_[scores, 20:60], np.r_[member, np.ones(40, bool)])[1] == pytest.approx(low)  # five non-members


@pytest.mark.parametrize("fpr", [0.0, 0.001, 0.01, 0.1, 0.5])
def test_tpr_at_fpr_is_the_best_below_it(fpr):
    scores, member = scores_with_ties(1000)
    got = tpr_at_fpr(roc(scores, member), fpr)
    best = max(
        ((scores >= t)[member].mean(), (scores >= t)[~member].mean())
        for t in [np.inf, *scores]
        if (scores >= t)[~member].mean() <= fpr
    )
    assert got.tpr == best[0]
    assert got.false_positives / (~member).sum() <= fpr
    assert got.low <= got.tpr <= got.high
    assert (got.low, got.high) == clopper_pearson(got.true_positives, int(member.sum()))


def test_a_false_positive_rate_that_is_met_exactly_counts():
    scores, member = np.arange(1010.0)[::-1], np.arange(1010) < 10
    scores[member] = 1000.5 - np.arange(10)  # one non-member in a thousand is above all of them but the first two
    scores = np.where(scores == 999, 1000.2, scores)
    assert tpr_at_fpr(roc(scores, member), 0.001).false_positives == 1


def test_balanced_accuracy_is_that_of_the_best_threshold():
    scores, member = scores_with_ties()
    expected = max(((scores >= t)[member].mean() + (scores < t)[~member].mean()) / 2 for t in scores)
    assert balanced_accuracy(roc(scores, member)) == pytest.approx(expected, rel=1e-12)


def test_the_interval_of_the_balanced_accuracy_is_of_two_exact_ones():
    scores, member = scores_with_ties()
    curve = roc(scores, member)
    threshold = max(set(scores), key=lambda t: (scores >= t)[member].mean() - (scores >= t)[~member].mean())
    found, accused = (scores >= threshold)[member], (scores >= threshold)[~member]
    low_tpr, high_tpr = clopper_pearson(found.sum(), len(found), 0.05)
    low_fpr, high_fpr = clopper_pearson(accused.sum(), len(accused), 0.05)
    low, high = balanced_accuracy_interval(curve, alpha=0.1)
    assert (low, high) == pytest.approx(((1 + low_tpr - high_fpr) / 2, (1 + high_tpr - low_fpr) / 2))
    assert low < balanced_accuracy(curve) < high


def test_the_interval_of_the_balanced_accuracy_covers_it_as_often_as_it_says():
    rng, covered = np.random.default_rng(6), 0
    for _ in range(200):  # one threshold: answers that are right with probability .7 and .4
        member = np.arange(200) < 100
        scores = (rng.random(200) < np.where(member, 0.7, 0.4)).astype(float)
        low, high = balanced_accuracy_interval(roc(scores, member))
        covered += low <= 0.65 <= high
    assert covered >= 190


def test_equal_scores_are_never_told_apart():
    scores, member = np.zeros(100), np.arange(100) < 50
    curve = roc(scores, member)
    assert curve.tpr.tolist() == curve.fpr.tolist() == [0, 1]
    assert auc(scores, member) == (0.5, *clopper_pearson(25, 50))
    assert balanced_accuracy(curve) == 0.5
    assert tpr_at_fpr(curve, 0.01).tpr == 0


@pytest.mark.parametrize(
    ("scores", "member", "message"),
    [
        ([1.0, np.nan], [True, False], "the score of image 1 is not finite"),
        ([1.0, np.inf], [True, False], "the score of image 1 is not finite"),
        ([1.0, 2.0], [True, True], "there must be members and non-members among the scored images"),
        ([1.0, 2.0], [False, False], "there must be members and non-members among the scored images"),
        ([], [], "there must be members and non-members among the scored images"),
        ([1.0, 2.0], [1, 0], "scores [N] and member bool [N], got [2], int64 [2]"),
        ([1.0], [True, False], "scores [N] and member bool [N], got [1], bool [2]"),
    ],
)
def test_scores_that_mean_nothing_are_refused(scores, member, message):
    with pytest.raises(UsageError) as error:
        roc(np.array(scores, np.float64), np.array(member, bool if not member else None))
    assert str(error.value) == message


def test_the_exposure_of_an_image_is_the_share_of_non_members_as_high():
    scores, member = scores_with_ties()
    expected = [np.mean(scores[~member] >= own) for own in scores]
    np.testing.assert_allclose(false_positive_rate_of(scores, member), expected, atol=1e-12)
