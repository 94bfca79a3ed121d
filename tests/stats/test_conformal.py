"""p among the scores of benign models: by hand, at its boundaries, and against simulation."""

import numpy as np
import pytest
from scipy import stats

from pydrift.stats.conformal import RANKED, ConformalNull

COUNTS = [2, 3, 4, 12, 19, 32, 59, 256]
ALPHAS = [1e-6, 1e-3, 0.01, 0.03, 0.05, 0.1, 0.2, 0.5, 0.9, 0.999999]


def null(count, seed=0, draw="standard_normal"):
    return ConformalNull(np.asarray(getattr(np.random.default_rng(seed), draw)(count)))


def test_p_is_the_rank_where_three_models_or_more_lie_at_or_above():
    scores = ConformalNull(np.array([3.0, 1.0, 2.0, 5.0, 4.0]))
    assert [scores.p_value(score) for score in (3.0, 2.5, 1.5, 1.0, -9.0)] == pytest.approx([4 / 6, 4 / 6, 5 / 6, 1, 1])
    assert scores.p_value(4.0) == pytest.approx(RANKED / 6)  # two at or above, and the score itself


def test_beyond_the_ranks_p_is_the_tail_of_a_further_value_of_a_normal_sample():
    scores = np.arange(20.0)
    spread = scores.std(ddof=1) * np.sqrt(1 + 1 / 20)
    found = ConformalNull(scores).p_value(25.0)
    assert found == pytest.approx(stats.t.sf((25 - 9.5) / spread, 19))
    assert found < 1 / 21
    # The tail never says more than the ranks do.
    skewed = ConformalNull(np.array([-1000.0, *[0.0] * 9, 1.0, 2.0]))
    assert skewed.p_value(1.5) == skewed.p_value(2.5) == RANKED / 13


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
def test_p_never_rises_with_the_score_and_is_never_zero(count, draw):
    benign = null(count, count, draw)
    scores = np.sort(np.concatenate([benign.scores, np.linspace(-9, 9, 500), [1e3, 1e9, 1e300]]))
    p = np.array([benign.p_value(float(score)) for score in scores])
    assert (np.diff(p) <= 0).all()
    assert (p > 0).all()
    assert p[0] == 1


@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
def test_equal_scores_and_scores_without_any_spread_have_a_p(draw):
    same = ConformalNull(np.full(12, 2.0))
    assert same.p_value(2.0) == 1
    assert 0 < same.p_value(2.0 + 1e-6) < 1e-6
    tied = ConformalNull(np.repeat(null(6, 1, draw).scores, 2))
    assert tied.p_value(float(tied.scores.max())) == RANKED / 13


@pytest.mark.parametrize("count", COUNTS)
@pytest.mark.parametrize("alpha", ALPHAS)
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy"])
def test_the_smallest_score_is_where_p_falls_to_alpha(count, alpha, draw):
    benign = null(count, count + 1, draw)
    at = benign.smallest_score(alpha)
    step = 1e-7 * max(1.0, abs(at))
    assert benign.p_value(at + step) <= alpha < benign.p_value(at - step)


def test_the_order_of_the_models_does_not_matter():
    scores = null(32).scores
    for score in (0.3, 5.0):
        assert ConformalNull(scores[::-1]).p_value(score) == pytest.approx(ConformalNull(scores).p_value(score))


@pytest.mark.parametrize("count", [12, 32])
@pytest.mark.parametrize("draw", ["standard_normal", "standard_cauchy", "standard_exponential"])
def test_ranks_are_uniform_whatever_the_distribution(count, draw):
    rng = np.random.default_rng(3)
    values = getattr(rng, draw)((4000, count + 1))
    p = np.array([ConformalNull(row[:-1]).p_value(float(row[-1])) for row in values])
    for rank in range(RANKED, count + 2):
        level = rank / (count + 1)
        assert stats.binomtest(int((p <= level + 1e-12).sum()), len(p), level).pvalue > 1e-4


@pytest.mark.parametrize("count", [12, 32])
def test_the_tail_of_normal_scores_is_exact(count):
    values = np.random.default_rng(4).standard_normal((20_000, count + 1))
    p = np.array([ConformalNull(row[:-1]).p_value(float(row[-1])) for row in values])
    for level in (0.001, 0.01, 0.02):
        assert stats.binomtest(int((p <= level).sum()), len(p), level).pvalue > 1e-4
