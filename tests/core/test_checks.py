"""Checks of settings that every audit has."""

import pytest

from pydrift.core.checks import check_seed
from pydrift.core.errors import UsageError


@pytest.mark.parametrize("seed", [0, 2**63 - 1])
def test_a_seed_in_range_is_taken(seed):
    check_seed(seed)


@pytest.mark.parametrize("seed", [-1, 2**63])
def test_a_seed_out_of_range_is_refused(seed):
    with pytest.raises(UsageError, match=rf"^seed must be in 0\.\.2\*\*63 - 1, got {seed}$"):
        check_seed(seed)
