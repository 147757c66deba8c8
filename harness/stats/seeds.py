"""Seed variance of several methods, from the table of their scores: pooled over methods, and each method's own.

A score is method + seed + (method x seed) where methods share their seeds, so that a difference of two methods only has
the interaction in it; a seed's own effect is a block. The interaction is pooled over all methods, which three seeds
need; a method whose seeds scatter more than others' is seen in its own variance. Sources: Searle, Casella and
McCulloch, Variance Components, 1992, chapter 4; Grubbs, JASA 43, 1948, for one row's variance in a two-way table.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats.estimate import Floats

UNLIKE_RATIO, UNLIKE_LEVEL = 2.0, 0.05
_ROUNDS = 200
_PRIOR = 1.0  # degrees of freedom that the pool counts as in a method's own variance


@dataclass(frozen=True)
class SeedVariance:
    """Variances of one seed's score, item x seed noise included.

    Attributes:
        pooled: of a method's own part (with shared seeds the interaction, else all), over the replicated methods.
        degrees: degrees of freedom of `pooled`; 0 where nothing is replicated.
        own: each method's own share of the same part, shape (methods,); NaN where a method has no two seeds.
        raw: each method's variance over its seeds, shared part included, shape (methods,); NaN as in `own`.
        total: of a score against something without seeds, pooled over methods; the shared part included.
        total_degrees: degrees of freedom of `total`, by Satterthwaite.
        counts: seeds of each method, shape (methods,); 0 for a deterministic one.
        paired: whether the seeds are shared.
    """

    pooled: float
    degrees: float
    own: Floats
    raw: Floats
    total: float
    total_degrees: float
    counts: Floats
    paired: bool

    @property
    def replicated(self) -> np.ndarray:
        """Return which methods have two seeds or more."""
        return np.asarray(self.counts > 1)

    def unlike(self) -> dict[int, float]:
        """Return the methods whose seeds scatter more than the others', with the ratio of standard deviations.

        A ratio above 2 that a one-sided F test supports, at 5 % over all methods. With few seeds many go unnoticed.
        """
        from scipy.stats import f

        methods = np.flatnonzero(self.replicated)
        ratios: dict[int, float] = {}
        if len(methods) < 3:
            return ratios
        for method in methods:
            others = methods[methods != method]
            pool = float(np.average(self.own[others], weights=self.counts[others] - 1))
            if pool <= 0:
                continue
            ratio = float(self.own[method] / pool)
            degrees = self.degrees * len(others) / len(methods)
            if ratio > UNLIKE_RATIO**2 and f.sf(ratio, self.counts[method] - 1, degrees) < UNLIKE_LEVEL / len(methods):
                ratios[int(method)] = ratio**0.5
        return ratios


def seed_variances(scores: Floats, deterministic: np.ndarray, *, paired: bool) -> SeedVariance:
    """Return the seed variances that a table of scores shows.

    Args:
        scores: shape (methods, seeds), NaN for a lost seed.
        deterministic: shape (methods,), the methods without seeds.
        paired: whether a column is one seed for every method.
    """
    counts = np.where(deterministic, 0, (~np.isnan(scores)).sum(axis=1)).astype(np.float64)
    methods = np.flatnonzero(counts > 1)
    own, raw = np.full(len(scores), np.nan), np.full(len(scores), np.nan)
    if not len(methods):
        return SeedVariance(0.0, 0.0, own, raw, 0.0, 0.0, counts, paired)
    table, free = scores[methods], counts[methods] - 1
    raw[methods] = np.nanvar(table, axis=1, ddof=1)
    total = float(np.average(raw[methods], weights=free))
    if not paired or len(methods) == 1:
        return SeedVariance(total, float(free.sum()), raw, raw, total, float(free.sum()), counts, paired)
    table = table[:, ~np.isnan(table).all(axis=0)]
    pooled, together, own[methods] = interaction(table)
    total_degrees = _total_degrees(total, pooled, together, (len(table), table.shape[1]))
    return SeedVariance(pooled, together, own, raw, total, total_degrees, counts, paired)


def interaction(table: Floats) -> tuple[float, float, Floats]:
    """Return the method x seed variance of a table of scores, its degrees of freedom and each method's own variance.

    Args:
        table: shape (methods, seeds), NaN for a lost seed, at least two of each.
    """
    residuals = _additive_residuals(table)
    squares = np.nansum(residuals**2, axis=1)
    there = (~np.isnan(table)).sum(axis=1)
    degrees = float(max(there.sum() - len(table) - table.shape[1] + 1, 1))
    pooled = float(squares.sum()) / degrees
    return pooled, degrees, own_variances(squares / (there - 1), pooled)


def own_variances(spread: Floats, pooled: Floats | float) -> Floats:
    """Return unbiased variances of single rows of a two-way table from their residuals'; never below zero.

    Args:
        spread: shape (..., methods), sums of squared residuals over seeds less one.
        pooled: shape (...), the variance of all rows together.
    """
    count = spread.shape[-1]
    if count < 3:  # two rows only show the variance of their difference
        return np.asarray(np.broadcast_to(np.asarray(pooled)[..., None], spread.shape))
    mean = spread.sum(axis=-1, keepdims=True) / (count * (count - 1))
    return np.asarray(np.maximum((spread - mean) * count / (count - 2), 0.0))


def moderated(own: Floats, pooled: Floats | float, free: Floats) -> tuple[Floats, Floats]:
    """Return the methods' own variances, moderated by the pool, and their degrees of freedom.

    The pool counts as one degree of freedom, and as half of the method's own at most: more would judge a method whose
    seeds scatter three times as much by the others' seeds, less would waste what they show.
    """
    prior = np.minimum(_PRIOR, free / 2)
    return (prior * pooled + free * own) / (prior + free), prior + free


def welch(parts: Floats, degrees: Floats) -> Floats:
    """Return the degrees of freedom of a sum of variances, over the last axis. Source: Welch, Biometrika 34, 1947."""
    below = (parts**2 / degrees).sum(axis=-1)
    total = parts.sum(axis=-1)
    return np.asarray(np.where(below > 0, total**2 / np.where(below > 0, below, 1.0), degrees.min(axis=-1)))


def _additive_residuals(table: Floats) -> Floats:
    """Return what row and column effects leave of a table, NaN where it is empty."""
    residuals = table - np.nanmean(table, axis=1, keepdims=True)
    for _ in range(_ROUNDS if np.isnan(table).any() else 1):  # once is exact where nothing is lost
        columns = np.nanmean(residuals, axis=0)
        residuals = residuals - columns
        residuals = residuals - np.nanmean(residuals, axis=1, keepdims=True)
        if np.abs(columns).max() < 1e-15 * (np.nanmax(np.abs(table)) + 1e-300):
            break
    return np.asarray(residuals)


def _total_degrees(total: float, pooled: float, degrees: float, shape: tuple[int, int]) -> float:
    """Return the degrees of freedom of block plus interaction, by Satterthwaite's rule."""
    methods, seeds = shape
    inner = pooled * (1 - 1 / methods)
    block = max(total - inner, 0.0)
    if block + inner <= 0:
        return float(seeds - 1)
    return (block + inner) ** 2 / (block**2 / (seeds - 1) + inner**2 / degrees)
