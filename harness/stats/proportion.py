"""The interval of a proportion: a rate of divergence, an accuracy of which only the count is published."""


def sign_test(first: int, second: int) -> float | None:
    """Return the two-sided p-value of the exact sign test, that either of two outcomes is as likely; None without any.

    On the pairs in which two methods differ it is McNemar's exact test.
    """
    from scipy.stats import binomtest

    return float(binomtest(first, first + second).pvalue) if first + second else None


def wilson_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a binomial proportion: never empty, also where none or all of the trials count.

    Source: Wilson, JASA 22, 1927, page 209.

    Raises:
        ValueError: no trials, or a count outside of them.
    """
    from scipy.stats import binomtest

    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total}: a count between 0 and a positive total is needed")
    interval = binomtest(count, total).proportion_ci(confidence_level=level, method="wilson")
    return float(interval.low), float(interval.high)


def wilson_of_rate(rate: float, observations: int, level: float = 0.95) -> tuple[float, float]:
    """Return the same interval of a mean rate over independent observations, each of them a share itself.

    Raises:
        ValueError: no observations, or a rate outside of 0 to 1.
    """
    from scipy.special import ndtri

    if not 0 <= rate <= 1 or observations < 1:
        raise ValueError(f"rate={rate:g} of {observations} observations: a share of at least one is needed")
    square = float(ndtri((1 + level) / 2)) ** 2
    center = (rate + square / (2 * observations)) / (1 + square / observations)
    half = (square * (rate * (1 - rate) / observations + square / (4 * observations**2))) ** 0.5
    half /= 1 + square / observations
    return max(center - half, 0.0), min(center + half, 1.0)
