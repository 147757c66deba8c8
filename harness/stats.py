"""Estimates with their uncertainty: arrays in, numbers out.

Two noises are kept apart: that of the items a model is asked (every function) and that of the seeds it was trained with
(`over_seeds`, `difference_over_seeds`). An uncertainty that the data do not show is None.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]


class Estimate(NamedTuple):
    """A value and its standard error, in the unit of the data; None where one observation shows no spread."""

    value: float
    standard_error: float | None


class SeedEstimate(NamedTuple):
    """An estimate over items and seeds, with the degrees of freedom of its standard error."""

    value: float
    standard_error: float | None
    degrees_of_freedom: float | None


def mean_and_standard_error(values: ArrayLike) -> Estimate:
    """The mean and its standard error, from the sample's standard deviation (n - 1).

    Raises:
        ValueError: no values, or more than one dimension.
    """
    return ratio(values, np.ones(len(_vector(values, "values"))))


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """The mean of a - b over the same items in the same order, with the standard error of the differences.

    Source: Miller, Adding Error Bars to Evals, 2024 (arXiv:2411.00640), section 4.2.

    Raises:
        ValueError: the two have different lengths, or no items.
    """
    first, second = _pair(a, b)
    return mean_and_standard_error(first - second)


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """sum(numerators) / sum(denominators) over items, with the standard error of the delta method.

    A loss per token is such a ratio: the nats of an item over its tokens. With denominators of 1 it is the mean.

    Source: Cochran, Sampling Techniques, 3rd edition, 1977, chapter 6: the linearised variance of a ratio estimator.

    Raises:
        ValueError: different lengths, no items, or denominators that do not sum to a positive number.
    """
    above, below = _pair(numerators, denominators)
    total = float(below.sum())
    if total <= 0:
        raise ValueError(f"the denominators sum to {total}: a ratio needs a positive sum, such as a number of tokens")
    value = float(above.sum()) / total
    count = len(above)
    if count < 2:
        return Estimate(value, None)
    residuals = above - value * below
    return Estimate(value, math.sqrt(count / (count - 1) * float(residuals @ residuals)) / total)


def ratio_standard_error(numerators: ArrayLike, denominators: ArrayLike) -> float | None:
    """The standard error of `ratio`."""
    return ratio(numerators, denominators).standard_error


def paired_ratio_difference(a: ArrayLike, b: ArrayLike, denominators: ArrayLike) -> Estimate:
    """sum(a) / sum(denominators) - sum(b) / sum(denominators) over the same items with the same denominators.

    Both ratios share the denominator, so that the difference is itself the ratio of a - b.

    Raises:
        ValueError: as `ratio`.
    """
    first, second = _pair(a, b)
    return ratio(first - second, denominators)


def over_seeds(values: ArrayLike, weights: ArrayLike | None = None) -> SeedEstimate:
    """The mean over the seeds (rows) of the ratio over the items (columns), with both noises where there are two seeds.

    Args:
        values: shape (seeds, items).
        weights: shape (items,), the denominators of `ratio`; 1 for a plain mean.
    """
    matrix = _matrix(values)
    return _combine(matrix.mean(axis=0), _weights(matrix, weights), [matrix])


def difference_over_seeds(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None) -> SeedEstimate:
    """`over_seeds(a) - over_seeds(b)` on the same items, paired by item and not by seed.

    The variance is that of the items, over outcomes averaged over the seeds, plus that of each side's mean over its
    seeds. The part that item and seed share is counted in both, which errs on the wide side. A side with one seed adds
    nothing: its seed noise is unknown, not zero.

    Source: Cameron, Gelbach and Miller, Robust Inference with Multiway Clustering, 2011, equation 2.3, without its
    negative term; degrees of freedom after Satterthwaite, 1946.

    Raises:
        ValueError: the sides have different numbers of items.
    """
    first, second = _matrix(a), _matrix(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} items against {second.shape[1]}: paired numbers need the same items")
    return _combine(first.mean(axis=0) - second.mean(axis=0), _weights(first, weights), [first, second])


def two_sided_p(estimate: SeedEstimate) -> float | None:
    """Student's t test of "the value is zero", two-sided; None without a standard error."""
    if estimate.standard_error is None or estimate.degrees_of_freedom is None:
        return None
    if estimate.standard_error == 0:
        return 1.0 if estimate.value == 0 else 0.0
    from scipy.stats import t

    return float(2 * t.sf(abs(estimate.value) / estimate.standard_error, estimate.degrees_of_freedom))


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """The exact two-sided p of McNemar's test that a and b gain as many answers as they lose against each other.

    Source: McNemar, 1947; exact, as a binomial test with p = 1/2 on the discordant pairs.

    Raises:
        ValueError: outcomes other than 0 and 1, different lengths, or no items.
    """
    first, second = _pair(a, b)
    if not np.isin(np.concatenate([first, second]), (0.0, 1.0)).all():
        raise ValueError("McNemar's test needs outcomes of 0 and 1: use paired_difference for graded ones")
    wins, losses = int(np.sum(first > second)), int(np.sum(first < second))
    if wins + losses == 0:
        return 1.0
    from scipy.stats import binomtest

    return float(binomtest(wins, wins + losses, 0.5).pvalue)


def holm(p_values: Sequence[float]) -> list[float]:
    """The p-values adjusted for their number, in the order given: each may be held against the level as it is.

    Source: Holm, A Simple Sequentially Rejective Multiple Test Procedure, 1979.

    Raises:
        ValueError: a value outside [0, 1].
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"p-values lie between 0 and 1, given: {wrong}")
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=lambda i: p_values[i])):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = highest
    return adjusted


def _combine(outcomes: Floats, weights: Floats, sides: list[Floats]) -> SeedEstimate:
    """The ratio of the outcomes, with the variance of the items and of the seeds of every side."""
    items = ratio(outcomes, weights)
    if items.standard_error is None:
        return SeedEstimate(items.value, None, None)
    parts = [(items.standard_error**2, len(outcomes) - 1)]
    for side in sides:
        seeds = len(side)
        if seeds > 1:
            parts.append((float(np.var(side.sum(axis=1) / weights.sum(), ddof=1)) / seeds, seeds - 1))
    variance = sum(part for part, _ in parts)
    squares = sum(part**2 / freedom for part, freedom in parts)
    return SeedEstimate(items.value, math.sqrt(variance), variance**2 / squares if squares else float(parts[0][1]))


def _vector(values: ArrayLike, name: str) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"{name} has shape {array.shape}: a list of at least one number is needed")
    return array


def _matrix(values: ArrayLike) -> Floats:
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 2 or not array.size:
        raise ValueError(f"outcomes of shape {array.shape}: (seeds, items) is needed, with at least one of each")
    return array


def _weights(matrix: Floats, weights: Any) -> Floats:
    return np.ones(matrix.shape[1]) if weights is None else _vector(weights, "weights")


def _pair(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    first, second = _vector(a, "the first list"), _vector(b, "the second list")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} items against {len(second)}: paired numbers need the same items")
    return first, second
