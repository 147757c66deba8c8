"""A hierarchical bootstrap: items are resampled, the same ones for every method, and seeds on top of them.

Few seeds cannot be resampled (three of them give ten different means, all too close to each other), so their share is
drawn from Student's t about the mean, with the variance that the items do not explain. Resampling tends to the same
with many seeds, and with three this is not too narrow. Draws are seeded, so that equal records give equal numbers.
"""

from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import Floats, seed_variance

DRAWS = 2000
_SEED = 20061
_MOST_CELLS = 4_000_000  # cells of one block of resampled items, 32 MB
_MOST_KEPT = 16_000_000  # cells of all blocks that are cached for the next call


def bootstrap(
    outcomes: Sequence[ArrayLike], weights: ArrayLike | None = None, draws: int = DRAWS, seed: int = _SEED
) -> Floats:
    """Return resampled values of several methods on the same items, with shape (methods, draws).

    Draw d holds the same items in every row, so that the difference of two rows is paired by item. For two
    methods that share their seeds, pass the differences themselves: then it is paired by seed too.

    Args:
        outcomes: one array of shape (seeds, items) for each method, all with the same items.
        weights: shape (items,), the denominators of a ratio such as answer tokens; None for a plain mean.
        draws: how many.
        seed: of the random numbers.

    Raises:
        ValueError: no methods, or different items.
    """
    matrices = [np.atleast_2d(np.asarray(matrix, dtype=np.float64)) for matrix in outcomes]
    if len({matrix.shape[1] for matrix in matrices}) != 1:
        raise ValueError(f"items: {[matrix.shape[1] for matrix in matrices]}; all methods need the same ones")
    means = np.stack([matrix.mean(axis=0) for matrix in matrices])
    below = np.ones(means.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    stacked = np.vstack([means, below])
    sums = np.concatenate([stacked @ counts.T for counts in _blocks(means.shape[1], draws, seed)], axis=1)
    values = sums[:-1] / sums[-1]
    random = np.random.default_rng([seed, draws])
    for row, matrix in enumerate(matrices):
        part = seed_variance(matrix, weights)
        if part is not None:  # drawn also where the variance is zero: the next method's draws must not depend on it
            values[row] += random.standard_t(part.degrees_of_freedom, draws) * np.sqrt(part.variance)
    return np.asarray(np.round(values, 12))


def seed_draws(
    scores: Sequence[ArrayLike], seeds: Sequence[tuple[int, ...]], draws: int = DRAWS, seed: int = _SEED
) -> Floats:
    """Return drawn errors that seeds bring to the scores of several tasks, with shape (methods, tasks, draws).

    One run answers all tasks, so that a seed moves them together: each draw is a random combination of the seeds'
    deviations, with Student's tails. Methods with the same seeds share the combination.

    Args:
        scores: one array of shape (seeds, tasks) for each method.
        seeds: the seeds of each method, in the order of its rows.
        draws: how many.
        seed: of the random numbers.
    """
    combined = []
    for table, names in zip(scores, seeds, strict=True):
        matrix = np.asarray(table, dtype=np.float64)
        count = len(matrix)
        if count < 2:
            combined.append(np.zeros((matrix.shape[1], draws)))
            continue
        order = np.argsort(names)
        random = np.random.default_rng([seed, draws, *(name % 2**32 for name in sorted(names))])
        weights = random.standard_normal((draws, count)) / np.sqrt(random.chisquare(count - 1, (draws, 1)) * count)
        combined.append((matrix - matrix.mean(axis=0))[order].T @ weights.T)
    return np.stack(combined)


def percentile_interval(draws: ArrayLike, level: float = 0.95) -> tuple[float, float]:
    """Return the central interval that holds `level` of the draws."""
    tail = (1 - level) / 2
    low, high = np.quantile(np.asarray(draws, dtype=np.float64), [tail, 1 - tail])
    return float(low), float(high)


def _blocks(items: int, draws: int, seed: int) -> Iterable[Floats]:
    return _kept(items, draws, seed) if items * draws <= _MOST_KEPT else _resampled(items, draws, seed)


@lru_cache(maxsize=2)
def _kept(items: int, draws: int, seed: int) -> tuple[Floats, ...]:
    return tuple(_resampled(items, draws, seed))


def _resampled(items: int, draws: int, seed: int) -> Iterator[Floats]:
    """Yield the counts of each item in each draw, in blocks of shape (draws of the block, items)."""
    random = np.random.default_rng([seed, items])
    block = max(1, min(draws, _MOST_CELLS // items))
    for start in range(0, draws, block):
        size = min(block, draws - start)
        chosen = random.integers(items, size=(size, items)) + np.arange(size)[:, None] * items
        yield np.bincount(chosen.ravel(), minlength=size * items).reshape(size, items).astype(np.float64)
