"""One number over many tasks: the mean, the interquartile mean and the average rank."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import EQUAL, Floats
from harness.stats.resample import percentile_interval


class Interval(NamedTuple):
    """A value with the interval that holds 95 % of its resampled values."""

    value: float
    low: float
    high: float


class Across(NamedTuple):
    """A method over all tasks."""

    mean: Interval
    interquartile_mean: Interval
    rank: Interval  # 1 is best; ties share the mean of their ranks


def interquartile_mean(scores: ArrayLike) -> Floats:
    """Return the mean of the middle half along the last axis; scores on its border count in part.

    Source: Agarwal et al., Deep Reinforcement Learning at the Edge of the Statistical Precipice, 2021, section 4.3.
    """
    ordered = np.sort(np.asarray(scores, dtype=np.float64), axis=-1)
    count = ordered.shape[-1]
    places = np.arange(count)
    shares = np.clip(np.minimum(places + 1, 0.75 * count) - np.maximum(places, 0.25 * count), 0, 1)
    return np.asarray((ordered * shares).sum(axis=-1) / shares.sum())


def across_tasks(values: ArrayLike, draws: ArrayLike) -> list[Across]:
    """Return the summary of each method; tasks are taken as they are, items and seeds as a sample.

    Resampling adds noise to scores that have some already, and pulls the ranks of methods that are alike towards their
    mean: an average rank may lie at an end of its interval.

    Args:
        values: shape (methods, tasks), higher is better.
        draws: shape (methods, tasks, draws), resampled together.
    """
    scores, resampled = np.asarray(values, dtype=np.float64), np.moveaxis(np.asarray(draws, dtype=np.float64), -1, 0)
    kinds = (
        (scores.mean(axis=-1), resampled.mean(axis=-1)),
        (interquartile_mean(scores), interquartile_mean(resampled)),
        (_ranks(scores, 0).mean(axis=-1), _ranks(resampled, 1).mean(axis=-1)),
    )
    intervals = [
        [Interval(float(value[i]), *percentile_interval(spread[:, i])) for value, spread in kinds]
        for i in range(len(scores))
    ]
    return [Across(*three) for three in intervals]


def _ranks(scores: Floats, axis: int) -> Floats:
    """Return ranks along an axis; scores that are equal but for rounding share theirs."""
    from scipy.stats import rankdata

    return np.asarray(rankdata(-np.round(scores, EQUAL), axis=axis), dtype=np.float64)
