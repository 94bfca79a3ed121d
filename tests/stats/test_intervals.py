"""Confidence intervals of a proportion, against their definition and against scipy."""

import numpy as np
import pytest
from scipy.stats import binom, binomtest

from pydrift.stats.intervals import clopper_pearson


@pytest.mark.parametrize(("k", "n"), [(0, 20), (1, 20), (7, 20), (19, 20), (20, 20), (3, 4000)])
def test_clopper_pearson_is_the_exact_interval(k, n):
    """Its ends are the proportions at which k or more (or fewer) successes have probability alpha / 2."""
    low, high = (float(end) for end in clopper_pearson(k, n, alpha=0.1))
    if k > 0:
        assert binom.sf(k - 1, n, low) == pytest.approx(0.05, rel=1e-6)
    if k < n:
        assert binom.cdf(k, n, high) == pytest.approx(0.05, rel=1e-6)
    assert (low == 0) == (k == 0)
    assert (high == 1) == (k == n)


@pytest.mark.parametrize("alpha", [0.01, 0.05, 0.3])
@pytest.mark.parametrize("n", [1, 2, 7, 50, 1000])
def test_clopper_pearson_is_scipys(n, alpha):
    """All counts at once, both ends of the range included."""
    counts = np.unique(np.linspace(0, n, 40).round().astype(int))
    low, high = clopper_pearson(counts, n, alpha)
    assert (low[0], high[-1]) == (0, 1)
    expected = [binomtest(int(k), n).proportion_ci(1 - alpha, method="exact") for k in counts]
    np.testing.assert_allclose(low, [interval.low for interval in expected], rtol=1e-9)
    np.testing.assert_allclose(high, [interval.high for interval in expected], rtol=1e-9)
