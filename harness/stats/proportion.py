"""The interval of a proportion: a rate of divergence, an accuracy of which only the count is published."""


def wilson_interval(count: int, total: int, level: float = 0.95) -> tuple[float, float]:
    """Return the score interval of a binomial proportion: never empty, also where none or all of the trials count.

    Source: Wilson, JASA 22, 1927, page 209.

    Raises:
        ValueError: no trials, or a count outside of them.
    """
    from scipy.stats import binomtest

    if not 0 <= count <= total or total < 1:
        raise ValueError(f"{count} of {total}: a count between 0 and a positive total is needed")
    found = binomtest(count, total).proportion_ci(confidence_level=level, method="wilson")
    return float(found.low), float(found.high)
