"""The levels of a series of audits."""

import numpy as np
import pytest

from pydrift.stats.multiple_tests import alpha_of_release


def test_the_levels_of_a_series_of_releases_add_up_to_alpha():
    levels = [alpha_of_release(0.05, n) for n in range(1, 10_001)]
    assert levels[0] == pytest.approx(0.05 * 6 / np.pi**2)
    assert sum(levels) == pytest.approx(0.05, rel=1e-3)
    assert sum(levels) < 0.05
