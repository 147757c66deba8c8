"""The difference of two means of independent runs, such as seconds or bytes, without assuming equal variances."""

import math
from collections.abc import Sequence

import numpy as np


def welch(first: Sequence[float], second: Sequence[float], level: float) -> tuple[float, float]:
    """Return the difference of the means and the half-width of its interval, which misses with probability `level`.

    Equal runs have no spread, and a single run counts as one without: both are for quantities that runs do not move.

    Source: Welch, The generalization of Student's problem, Biometrika 34, 1947.

    Raises:
        ValueError: a side is empty.
    """
    from scipy.special import stdtrit

    if not first or not second:
        raise ValueError("both sides need at least one run")
    difference = float(np.mean(first) - np.mean(second))
    parts = [
        (float(np.var(scores, ddof=1)) / len(scores), len(scores) - 1) for scores in (first, second) if len(scores) > 1
    ]
    total = sum(variance for variance, _ in parts)
    if total == 0:
        return difference, 0.0
    degrees = total**2 / sum(variance**2 / df for variance, df in parts)
    return difference, float(-stdtrit(degrees, level / 2) * math.sqrt(total))
