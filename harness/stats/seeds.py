"""Seed variance of several methods, from the table of their scores: pooled over methods, and each method's own.

A score is method + seed + (method x seed) where methods share their seeds, so that a difference of two methods only has
the interaction in it; a seed's own effect is a block. The interaction is pooled over all methods, which three seeds
need. A method's own variance is moderated by the pool, and used alone where an F test finds it larger than the others'.
Sources: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4; Grubbs, JASA 43, 1948, for one row's
variance in a two-way table; Smyth, Statistical Applications in Genetics and Molecular Biology 3, 2004, for moderation.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from harness.stats.estimate import Floats

UNLIKE_LEVEL = 0.05  # of the F test of each method
_SINGULAR = 1e-9  # of a number that is zero but for rounding
_PRIOR = 2.0  # degrees of freedom that the pool counts as in a method's own variance, at most


@dataclass(frozen=True)
class SeedVariance:
    """Variances of one seed's score, item x seed noise included.

    Attributes:
        pooled: of a method's own part (with shared seeds the interaction, else all), over the replicated methods.
        degrees: degrees of freedom of `pooled`; 0 where nothing is replicated.
        own: each method's own share of the same part, shape (methods,); NaN where a method has no two seeds, or shares
            none with the others.
        free: degrees of freedom of `own`, shape (methods,); with lost seeds fewer than seeds less one.
        raw: each method's variance over its seeds, shared part included, shape (methods,); NaN without two seeds.
        total: of a score against something without seeds, pooled over methods; the shared part included.
        total_degrees: degrees of freedom of `total`, by Satterthwaite.
        counts: seeds of each method, shape (methods,); 0 for a deterministic one.
        paired: whether the seeds are shared.
    """

    pooled: float
    degrees: float
    own: Floats
    free: Floats
    raw: Floats
    total: float
    total_degrees: float
    counts: Floats
    paired: bool

    @cached_property
    def replicated(self) -> np.ndarray:
        """Return which methods have two seeds or more."""
        return np.asarray(self.counts > 1)

    @cached_property
    def several(self) -> int:
        """Return the number of methods with two seeds or more."""
        return int(self.replicated.sum())

    @cached_property
    def pooling(self) -> np.ndarray:
        """Return over which methods `pooled` is."""
        return np.asarray(~np.isnan(self.own))

    @cached_property
    def moderated(self) -> Moderated:
        """Return the methods' variances as `moderated`, shape (methods,); NaN where `own` is."""
        methods = self.pooling
        variances, degrees = np.full((2, len(self.own)), np.nan)
        unlike = np.zeros(len(self.own), dtype=bool)
        if methods.any():
            made = moderated(self.own[methods], self.free[methods], self.pooled, self.degrees)
            variances[methods], degrees[methods], unlike[methods] = made.variances, made.degrees, made.unlike
        return Moderated(variances, degrees, unlike)

    def unlike(self) -> dict[int, float]:
        """Return the methods whose seeds scatter more than the others', with the ratio of standard deviations.

        Each has passed an F test at `UNLIKE_LEVEL`. With few seeds many go unnoticed.
        """
        free = np.where(self.pooling, self.free, 0.0)
        squares = np.where(self.pooling, self.own, 0.0) * free
        ratios: dict[int, float] = {}
        for method in np.flatnonzero(self.moderated.unlike):
            others = float(squares.sum() - squares[method])
            scale = float(free.sum() - free[method])
            ratios[int(method)] = (self.own[method] * scale / others) ** 0.5 if others > 0 else float("inf")
        return ratios


@dataclass(frozen=True)
class Moderated:
    """Methods' own seed variances, moderated by the pool, shape (..., methods).

    Attributes:
        variances: of one seed's score.
        degrees: degrees of freedom of the variances.
        unlike: methods whose own variance is used alone, since it is larger than the others'.
    """

    variances: Floats
    degrees: Floats
    unlike: np.ndarray


def seed_variances(scores: Floats, deterministic: np.ndarray, *, paired: bool) -> SeedVariance:
    """Return the seed variances that a table of scores shows.

    Args:
        scores: shape (methods, seeds), NaN for a lost seed.
        deterministic: shape (methods,), the methods without seeds.
        paired: whether a column is one seed for every method.
    """
    counts = np.where(deterministic, 0, (~np.isnan(scores)).sum(axis=1)).astype(np.float64)
    methods = np.flatnonzero(counts > 1)
    own, raw = np.full((2, len(scores)), np.nan)
    free = counts - 1
    if not len(methods):
        return SeedVariance(0.0, 0.0, own, free, raw, 0.0, 0.0, counts, paired)
    table = scores[methods]
    raw[methods] = np.nanvar(table, axis=1, ddof=1)
    freedom = float(free[methods].sum())
    total = float(np.average(raw[methods], weights=free[methods]))
    made = interaction(table[:, ~np.isnan(table).all(axis=0)]) if paired and len(methods) > 1 else None
    if made is None:
        return SeedVariance(total, freedom, raw, free, raw, total, freedom, counts, paired)
    own[methods], free[methods] = made.own, made.free
    total_degrees = _total_degrees(total, made, freedom)
    return SeedVariance(made.pooled, made.degrees, own, free, raw, total, total_degrees, counts, paired)


@dataclass(frozen=True)
class Interaction:
    """The method x seed part of a table of scores.

    Attributes:
        pooled: its variance.
        degrees: degrees of freedom of `pooled`.
        own: each method's own variance, shape (methods,); NaN where a method shares no two seeds with others.
        free: degrees of freedom of `own`, shape (methods,).
        of_seeds: degrees of freedom of what the seeds do to all methods.
    """

    pooled: float
    degrees: float
    own: Floats
    free: Floats
    of_seeds: float


def interaction(table: Floats) -> Interaction | None:
    """Return the method x seed part of a table of scores; None where no two methods share two seeds, or in a chain.

    Args:
        table: shape (methods, seeds), NaN for a lost seed, at least two of each.
    """
    if np.isnan(table).any():
        return _incomplete(table)
    methods, seeds = table.shape
    residuals = table - table.mean(axis=1, keepdims=True) - table.mean(axis=0) + table.mean()
    squares = np.sum(residuals**2, axis=1)
    degrees = float((methods - 1) * (seeds - 1))
    pooled = float(squares.sum()) / degrees
    free = np.full(methods, seeds - 1.0)
    return Interaction(pooled, degrees, own_variances(squares / (seeds - 1), pooled), free, seeds - 1.0)


def _incomplete(table: Floats) -> Interaction | None:
    """Return the interaction of a table with lost seeds, by least squares for the methods and the seeds.

    A residual holds less of a method where few others have the seed, and nothing of it where none has. Sums of squared
    residuals are linear in the methods' variances, and are solved for them: Grubbs' estimate where nothing is lost.
    """
    there = ~np.isnan(table)
    counts = there.sum(axis=1)
    centered = np.where(there, table - np.nanmean(table, axis=1, keepdims=True), 0.0)
    within = there[:, :, None] * np.eye(table.shape[1])
    within = within - there[:, :, None] * there[:, None, :] / counts[:, None, None]
    of_seeds = within.sum(axis=0)
    inverse = np.linalg.pinv(of_seeds, rcond=_SINGULAR, hermitian=True)
    effects = inverse @ centered.sum(axis=0)
    residuals = np.where(there, centered - effects + (there @ effects / counts)[:, None], 0.0)
    squares = np.sum(residuals**2, axis=1)
    fitted = within @ inverse
    taken = np.trace(fitted, axis1=1, axis2=2)  # degrees of freedom that the seeds' effects take from each method
    left = counts - 1 - taken
    shared = left > _SINGULAR
    if not shared.any():
        return None
    degrees = float(left[shared].sum())
    pooled = float(squares[shared].sum()) / degrees
    shares = np.einsum("iab,jba->ij", fitted, fitted) + np.diag(counts - 1 - 2 * taken)
    own, free = np.full((2, len(table)), np.nan)
    solved = np.linalg.pinv(shares[np.ix_(shared, shared)], rcond=_SINGULAR, hermitian=True) @ squares[shared]
    own[shared] = np.maximum(solved, 0.0)
    free[shared] = left[shared] / (1 - 1 / shared.sum())
    return Interaction(pooled, degrees, own, free, float(np.trace(of_seeds) ** 2 / np.sum(of_seeds**2)))


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


def moderated(own: Floats, free: Floats, pooled: Floats | float, degrees: float) -> Moderated:
    """Moderate the methods' own variances by the pool.

    The pool counts as (S - 1)^2 / 4 degrees of freedom, at most two: a quarter with two seeds, one with three. Where a
    one-sided F test at 5 % finds a method's variance larger than that of the others together, the pool is not one of
    its kind, and the method's own variance stands alone. More borrowing would judge a method whose seeds scatter three
    times as much by the others' seeds, less would waste what they show.

    With three seeds and four methods, where one deviates three times as much, 7.3 to 9.0 % of its comparisons are
    wrong (seeds of 1 to 4 points, 1,319 items), for a power of .64 where all are alike (3 points, seeds of 1 point).
    Both cannot be had: any test that is monotone in the difference and wrong in at most 7 % there has at most .63
    power, and less where it does not know the scale of the seeds' noise, as `tests/bench/_bound.py` computes. From
    five seeds on both can be had.

    Args:
        own: shape (..., methods).
        free: degrees of freedom of each, shape (methods,).
        pooled: shape (...), the variance of all methods together.
        degrees: degrees of freedom of `pooled`.
    """
    from scipy.special import fdtrc

    count = own.shape[-1]
    pool = np.asarray(pooled)[..., None]
    prior = np.minimum(_PRIOR, free**2 / 4)
    mixed = (prior * pool + free * own) / (prior + free)
    if count < 3:
        unlike = np.zeros(own.shape, dtype=bool)
    else:
        squares = own * free
        others = (squares.sum(axis=-1, keepdims=True) - squares) / (free.sum() - free)
        ratio = np.divide(own, others, out=np.where(own > 0, np.inf, 0.0), where=others > 0)
        unlike = fdtrc(free, np.maximum(degrees - free, 1.0), ratio) < UNLIKE_LEVEL
    return Moderated(np.where(unlike, own, mixed), np.where(unlike, free, np.minimum(prior + free, degrees)), unlike)


def welch(parts: Floats, degrees: Floats) -> Floats:
    """Return the degrees of freedom of a sum of variances, over the last axis. Source: Welch, Biometrika 34, 1947."""
    below = (parts**2 / degrees).sum(axis=-1)
    total = parts.sum(axis=-1)
    return np.asarray(np.where(below > 0, total**2 / np.where(below > 0, below, 1.0), degrees.min(axis=-1)))


def _total_degrees(total: float, made: Interaction, freedom: float) -> float:
    """Return the degrees of freedom of block plus interaction, by Satterthwaite's rule."""
    inner = made.pooled * made.degrees / freedom
    block = max(total - inner, 0.0)
    if block + inner <= 0:
        return made.of_seeds
    return (block + inner) ** 2 / (block**2 / made.of_seeds + inner**2 / made.degrees)
