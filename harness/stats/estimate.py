"""Estimates with their standard errors: arrays in, numbers out.

Two noises are kept apart: that of the items of an evaluation (every function) and that of the training seeds
(`over_seeds`, `difference_over_seeds`). An uncertainty that the data do not show is None.
"""

import math
from collections.abc import Hashable, Sized
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
EQUAL = 12  # decimals: scores that differ by less are equal but for rounding


class Estimate(NamedTuple):
    """A value and its standard error, in the unit of the data; None where one observation shows no spread."""

    value: float
    standard_error: float | None


class Part(NamedTuple):
    """A share of an estimate's variance, and the degrees of freedom that it was estimated with."""

    variance: float
    degrees_of_freedom: int


class SeedEstimate(NamedTuple):
    """An estimate over items and seeds; `parts` are the noises that its standard error is made of, items first."""

    value: float
    standard_error: float | None
    parts: tuple[Part, ...] = ()


def mean_and_standard_error(values: ArrayLike) -> Estimate:
    """Return the mean and its standard error, from the sample's standard deviation (n - 1).

    Raises:
        ValueError: no values, or more than one dimension.
    """
    return ratio(values, np.ones(len(as_vector(values, "values"))))


def paired_difference(a: ArrayLike, b: ArrayLike) -> Estimate:
    """Return the mean of a - b over the same items in the same order, with the standard error of the differences.

    Source: Miller, Adding Error Bars to Evals, 2024 (arXiv:2411.00640), section 4.2.

    Raises:
        ValueError: the two have different lengths, or no items.
    """
    first, second = paired_lists(a, b)
    return mean_and_standard_error(first - second)


def ratio(numerators: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Return sum(numerators) / sum(denominators) over items, with the standard error of the delta method.

    A loss per token is such a ratio: the nats of an item over its tokens. With denominators of 1 it is the mean.

    Source: Cochran, Sampling Techniques, 3rd edition, 1977, chapter 6: the linearized variance of a ratio estimator.

    Raises:
        ValueError: different lengths, no items, or denominators that do not sum to a positive number.
    """
    above, below = paired_lists(numerators, denominators)
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
    """Return the standard error of `ratio`."""
    return ratio(numerators, denominators).standard_error


def paired_ratio_difference(a: ArrayLike, b: ArrayLike, denominators: ArrayLike) -> Estimate:
    """Return sum(a) / sum(denominators) - sum(b) / sum(denominators) over the same items.

    Both ratios share the denominator, so that the difference is itself the ratio of a - b.

    Raises:
        ValueError: as `ratio`.
    """
    first, second = paired_lists(a, b)
    return ratio(first - second, denominators)


def over_seeds(values: ArrayLike, weights: ArrayLike | None = None) -> SeedEstimate:
    """Return the mean over seeds (rows) of the ratio over items (columns), with both noises from two seeds on.

    Applied to the differences of two methods, it gives their difference paired by item and by seed.

    Args:
        values: shape (seeds, items).
        weights: shape (items,), the denominators of `ratio`; 1 for a plain mean.
    """
    matrix = _matrix(values)
    return _combine(matrix.mean(axis=0), _weights(matrix, weights), [matrix])


def difference_over_seeds(a: ArrayLike, b: ArrayLike, weights: ArrayLike | None = None) -> SeedEstimate:
    """Return `over_seeds(a) - over_seeds(b)` on the same items, paired by item and not by seed.

    A side with one seed adds nothing to the noise of the seeds: its seed noise is unknown, not zero.

    Raises:
        ValueError: the sides have different numbers of items.
    """
    first, second = _matrix(a), _matrix(b)
    if first.shape[1] != second.shape[1]:
        raise ValueError(f"{first.shape[1]} items against {second.shape[1]}: paired numbers need the same items")
    return _combine(first.mean(axis=0) - second.mean(axis=0), _weights(first, weights), [first, second])


def clustered(values: ArrayLike, weights: ArrayLike | None, clusters: ArrayLike | None) -> tuple[Floats, Floats | None]:
    """Return outcomes and weights of independent units: items, or where items share a passage or a prompt their sums.

    The ratio of the sums is the same, and its standard error is that of clustered items. Source: Miller, Adding Error
    Bars to Evals, 2024 (arXiv:2411.00640), section 2.2.

    Args:
        values: shape (seeds, items).
        weights: shape (items,); None for 1.
        clusters: a label for each item; None: every item stands alone.

    Raises:
        ValueError: not one label for each item, or an item without one.
    """
    matrix = _matrix(values)
    if clusters is None:
        return matrix, None if weights is None else _weights(matrix, weights)
    codes = cluster_codes(clusters, matrix.shape[1])
    return summed(matrix, codes), summed(_weights(matrix, weights)[None], codes)[0]


def cluster_codes(clusters: ArrayLike, items: int) -> NDArray[np.int_]:
    """Return the number of each item's cluster, in the order of their first items.

    Labels are compared as Python values: 1 and "1" are two.

    Raises:
        ValueError: not one label for each item, an item without one, or a label that cannot be a key.
    """
    given: Any = clusters
    sized = isinstance(given, Sized) and not isinstance(given, np.ndarray | str)
    shape = (len(given),) if sized else np.shape(given)
    if shape != (items,):
        raise ValueError(f"clusters of shape {shape}: one for each of the {items} items is needed")
    # an array made of a list would turn nan into text
    labels = given.tolist() if isinstance(given, np.ndarray) else [*given]
    if not all(isinstance(label, Hashable) for label in labels):
        raise ValueError("clusters: a label is a number, a name or a tuple of them")
    if lost := sum(label is None or label != label for label in labels):
        raise ValueError(
            f"clusters: {lost} of {items} items have no label; an item that stands alone has one of its own"
        )
    places: dict[Hashable, int] = {}
    return np.array([places.setdefault(label, len(places)) for label in labels])


def summed(rows: Floats, codes: NDArray[np.int_]) -> Floats:
    """Return the sums of each row within each cluster."""
    units = int(codes.max()) + 1
    return np.stack([np.bincount(codes, weights=row, minlength=units) for row in rows])


def seed_variance(values: ArrayLike, weights: ArrayLike | None = None) -> Part | None:
    """Return the variance of the mean over seeds that the items do not explain; None with one seed or one item.

    It is the seeds' mean square less that of the interaction of item and seed, never below zero: the noise of single
    answers is in the items' part already. Source: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4
    (two-way crossed, one observation a cell); a ratio is linearized first.

    Args:
        values: shape (seeds, items).
        weights: as in `over_seeds`.
    """
    matrix = _matrix(values)
    seeds, items = matrix.shape
    if seeds < 2 or items < 2:
        return None
    below = _weights(matrix, weights)
    ratio_of_all = matrix.mean(axis=0).sum() / below.sum()
    linear = (matrix - ratio_of_all * below) * (items / below.sum())
    by_seed, by_item = linear.mean(axis=1), linear.mean(axis=0)
    shared = linear - by_seed[:, None] - by_item
    noise = float((shared**2).sum()) / ((seeds - 1) * (items - 1))
    between = items * float(by_seed.var(ddof=1))
    return Part(max(between - noise, 0.0) / (seeds * items), seeds - 1)


def _combine(outcomes: Floats, weights: Floats, sides: list[Floats]) -> SeedEstimate:
    """Return the ratio of the outcomes, with the variance of the items and of the seeds of every side."""
    items = ratio(outcomes, weights)
    if items.standard_error is None:
        return SeedEstimate(items.value, None)
    seeds = [part for side in sides if (part := seed_variance(side, weights)) is not None]
    parts = (Part(items.standard_error**2, len(outcomes) - 1), *seeds)
    return SeedEstimate(items.value, math.sqrt(sum(part.variance for part in parts)), parts)


def as_vector(values: ArrayLike, name: str) -> Floats:
    """Return the values as a one-dimensional array of at least one number.

    Raises:
        ValueError: another shape, or no number.
    """
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
    return np.ones(matrix.shape[1]) if weights is None else as_vector(weights, "weights")


def paired_lists(a: ArrayLike, b: ArrayLike) -> tuple[Floats, Floats]:
    """Return both lists as arrays of one length.

    Raises:
        ValueError: the lengths differ.
    """
    first, second = as_vector(a, "the first list"), as_vector(b, "the second list")
    if len(first) != len(second):
        raise ValueError(f"{len(first)} items against {len(second)}: paired numbers need the same items")
    return first, second
