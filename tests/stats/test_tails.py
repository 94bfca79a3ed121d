"""p, power, intervals and levels, against formulas, simulation and figures by hand."""

import itertools

import numpy as np
import pytest
from scipy import stats

from pydrift.stats.intervals import score_interval
from pydrift.stats.multiple_tests import alpha_of_release, holm
from pydrift.stats.tails import Tail, fit_tail


def test_tail_is_student_t_of_a_prediction():
    tail = Tail(7.0, 1.5)
    assert tail.p_value(4, 8) == pytest.approx(stats.t.sf(4 / 1.5 / np.sqrt(9 / 8), 7))
    assert tail.p_value(0, 8) == 0.5
    assert tail.p_value(tail.smallest_score(0.01, 8), 8) == pytest.approx(0.01)
    assert tail.smallest_score(0.01, 8) > tail.smallest_score(0.05, 8) > 0


def test_power_is_the_chance_to_call_a_drift_of_that_size():
    tail, rng = Tail(7.0, 1.5), np.random.default_rng(22)
    assert tail.power(tail.smallest_score(0.01, 8), 0.01, 8) == pytest.approx(0.5)
    assert tail.power(0, 0.01, 8) == pytest.approx(0.01)
    benign_scores = 1.5 * np.sqrt(9 / 8) * rng.standard_t(7, 20_000)
    called = np.mean([tail.p_value(score + 6, 8) <= 0.01 for score in benign_scores])
    assert tail.power(6, 0.01, 8) == pytest.approx(called, abs=0.01)


@pytest.mark.parametrize("degrees", [2, 5, 1000])
def test_fitted_tail_finds_the_degrees_and_stays_in_its_bounds(degrees):
    rng = np.random.default_rng(16)
    null = [np.sqrt(1 + 1 / 15) * rng.standard_t(degrees, 16) for _ in range(200)]
    tail = fit_tail(null)
    assert tail.degrees == pytest.approx(min(degrees, 15), rel=0.2)
    assert tail.scale == pytest.approx(1, abs=0.1)
    assert fit_tail([3 * n for n in null]).scale == pytest.approx(3, rel=0.15)
    narrow = fit_tail([0.01 * n for n in null])
    assert narrow.scale == pytest.approx(1)  # never more confident than normal theory
    assert fit_tail([n[:4] for n in null]).degrees <= 3 + 1e-9


def test_the_levels_of_a_series_of_releases_add_up_to_alpha():
    levels = [alpha_of_release(0.05, n) for n in range(1, 10_001)]
    assert levels[0] == pytest.approx(0.05 * 6 / np.pi**2)
    assert sum(levels) == pytest.approx(0.05, rel=1e-3)
    assert sum(levels) < 0.05


def test_holm_is_the_smallest_level_at_which_closed_bonferroni_rejects():
    rng = np.random.default_rng(17)
    for _ in range(50):
        p = rng.random(5) ** 3
        subsets = [s for size in range(1, 6) for s in itertools.combinations(range(5), size)]
        closed = [max(min(1, len(s) * p[list(s)].min()) for s in subsets if i in s) for i in range(5)]
        assert holm(p) == pytest.approx(closed)


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1, 1]


def test_score_interval_by_hand():
    low, high = score_interval(4.0, 9)
    half = 2.306004 * np.sqrt(1 / 9 + 16 / 16)
    assert (low, high) == (pytest.approx(4 - half, rel=1e-6), pytest.approx(4 + half, rel=1e-6))
    low_too = score_interval(4.0, 9, error=0.5)[0]
    assert low_too == pytest.approx(4 - 2.306004 * np.sqrt(1 / 9 + 16 / 16 + 0.25), rel=1e-6)
    narrow = score_interval(4.0, 9, level=0.5)
    assert low < narrow[0] < narrow[1] < high
