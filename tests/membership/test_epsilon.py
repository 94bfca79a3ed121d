"""Lower bounds on epsilon: against mechanisms with a known epsilon, and scores that give nothing away."""

import numpy as np
import pytest

from pydrift.membership.epsilon import epsilon_lower_bound


def test_constant_scores_bound_nothing():
    assert epsilon_lower_bound(np.zeros(100), np.arange(100) < 50) == 0


def randomised_response(epsilon, images, rng):
    """The best possible attack on an epsilon-differentially private mechanism: the truth, flipped now and then."""
    member = rng.random(images) < 0.5
    lies = rng.random(images) < 1 / (1 + np.exp(epsilon))
    return (member ^ lies).astype(np.float64), member


@pytest.mark.parametrize("epsilon", [0.0, 0.5, 2.0])
def test_the_epsilon_bound_is_seldom_above_the_truth(epsilon):
    rng = np.random.default_rng(2)
    bounds = [epsilon_lower_bound(*randomised_response(epsilon, 800, rng), alpha=0.1, seed=s) for s in range(200)]
    assert np.mean(np.array(bounds) > epsilon) <= 0.1
    if epsilon:
        assert np.median(bounds) > 0.4 * epsilon


def test_the_epsilon_bound_does_not_peek():
    """With many thresholds to choose from and nothing to find, the best one must not look like a finding."""
    rng = np.random.default_rng(3)
    member = np.arange(600) < 300
    bounds = [epsilon_lower_bound(rng.normal(size=600), member, alpha=0.1, seed=s) for s in range(200)]
    assert np.mean(np.array(bounds) > 0) <= 0.1


def test_the_epsilon_bound_finds_members_and_non_members():
    """It takes the better of two tests: here only the lowest scores give anything away."""
    rng = np.random.default_rng(4)
    member = np.arange(2000) < 1000
    scores = rng.normal(size=2000)
    scores[1000:1300] = -10
    assert epsilon_lower_bound(scores, member) > 2
    assert epsilon_lower_bound(-scores, ~member) > 2
    assert epsilon_lower_bound(scores, member, delta=0.5) == 0
    assert epsilon_lower_bound(scores[:1001], member[:1001]) == 0  # one non-member: nothing to bound with
    assert epsilon_lower_bound(scores, member, seed=1) == epsilon_lower_bound(scores, member, seed=1)
