"""Average ranks over tasks, with the difference from which two of them differ significantly."""

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import EQUAL, Floats


class Ranks(NamedTuple):
    """Average ranks of methods over tasks: 1 is best, and ties share the mean of their ranks."""

    average: Floats
    friedman_p: float  # of the hypothesis that all methods are alike
    critical_difference: float  # of two average ranks, adjusted for all pairs


def average_ranks(scores: ArrayLike, level: float = 0.05) -> Ranks:
    """Return the average ranks with the critical difference of Nemenyi's test.

    Tasks are a sample here: the test asks how methods rank on tasks like these.

    Args:
        scores: shape (methods, tasks), higher is better.
        level: the family-wise error of all pairs.

    Raises:
        ValueError: fewer than three methods or two tasks.

    Source: Demsar, Statistical Comparisons of Classifiers over Multiple Data Sets, JMLR 7, 2006, section 3.2.
    """
    from scipy.stats import friedmanchisquare, rankdata, studentized_range

    values = np.round(np.asarray(scores, dtype=np.float64), EQUAL)
    if values.ndim != 2 or values.shape[0] < 3 or values.shape[1] < 2:
        raise ValueError(f"scores have shape {values.shape}: at least three methods and two tasks are needed")
    count, tasks = values.shape
    ranks = rankdata(-values, axis=0)
    p = 1.0 if (ranks == ranks[0]).all() else float(friedmanchisquare(*values).pvalue)
    quantile = float(studentized_range.ppf(1 - level, count, np.inf)) / math.sqrt(2)
    return Ranks(ranks.mean(axis=1), p, quantile * math.sqrt(count * (count + 1) / (6 * tasks)))
