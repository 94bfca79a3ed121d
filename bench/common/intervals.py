"""The exact confidence interval of a share."""

from scipy import stats


def exact_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Returns Clopper and Pearson's interval of a binomial share: `count` of `total`."""
    interval = stats.binomtest(count, total).proportion_ci(level, method="exact")
    return float(interval.low), float(interval.high)
