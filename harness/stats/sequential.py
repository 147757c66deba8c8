"""Looks after each added seed, with a family's error kept under optional stopping.

After S seeds the family is tested, and its intervals are drawn, at a level of that look. The levels spend 5 % over all
looks: by look S the chance of any false verdict is at most `spent(S / most)`. Between looks the statistics depend on
each other. How much is simulated for the largest family, all pairs of `methods` equal methods, whose only noise is
that of the seeds. Noise of the items is the same at every look: it ties the looks closer together, and less is spent.

Sources: Lan and DeMets, Discrete sequential boundaries for clinical trials, Biometrika 70, 1983, for spending; Jennison
and Turnbull, Group Sequential Methods with Applications to Clinical Trials, 2000, sections 7.2 and 9.2, for the
spending function of Pocock's type and for the repeated confidence intervals.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import lru_cache

import numpy as np

from harness.stats.estimate import Floats

DRAWS = 200_000
_BLOCK = 20_000
_SEED = 71


def spent(share: float, level: float) -> float:
    """Return the error that may be spent when a share of the seeds is there: all of `level` at the end."""
    return level * math.log(1 + (math.e - 1) * min(max(share, 0.0), 1.0))


@lru_cache(maxsize=32)
def look_levels(first: int, most: int, methods: int, level: float = 0.05) -> tuple[float, ...]:
    """Return the level of a family at the looks after first, first + 1, ..., most seeds.

    Args:
        first: seeds at the first look, at least two.
        most: seeds at the last look.
        methods: methods with seeds that are compared; two or fewer count as two.
        level: the error of the family over all looks.

    Raises:
        ValueError: fewer than two seeds at first, or no more at last than at first.
    """
    if not 2 <= first < most:
        raise ValueError(f"first={first}, most={most}: at least two seeds at first are needed, and more at last")
    ranges = np.concatenate([*_paths(first, most, max(methods, 2))])
    running = np.ones(len(ranges), dtype=bool)  # draws without a false verdict so far
    levels, before = [], 0.0
    for look in range(most - first + 1):
        now = spent((first + look) / most, level)
        allowed = math.floor((now - before) * len(ranges))  # rounded down: never above what may be spent
        alive = np.sort(ranges[running, look])
        bound = alive[-allowed - 1]
        crossed = running & (ranges[:, look] > bound)
        levels.append(float(np.mean(ranges[:, look] > bound)))
        running &= ~crossed
        before += float(crossed.mean())
    return tuple(levels)


def _paths(first: int, most: int, methods: int) -> Iterator[Floats]:
    """Yield studentized ranges of equal methods, shape (draws, looks), in blocks.

    Seeds are blocks: a seed's shared effect leaves every difference, so that none is drawn.
    """
    random = np.random.default_rng([_SEED, first, most, methods])
    for _ in range(DRAWS // _BLOCK):
        sums = np.zeros((_BLOCK, methods))
        squares, blocks = np.zeros(_BLOCK), np.zeros(_BLOCK)
        statistics = np.empty((_BLOCK, most - first + 1))
        for seeds in range(1, most + 1):
            scores = random.standard_normal((_BLOCK, methods))
            sums += scores
            squares += (scores**2).sum(axis=1)
            blocks += scores.sum(axis=1) ** 2 / methods
            if seeds >= first:
                between = (sums**2).sum(axis=1) / seeds - sums.sum(axis=1) ** 2 / (seeds * methods)
                variance = (squares - blocks - between) / ((methods - 1) * (seeds - 1))
                statistics[:, seeds - first] = np.ptp(sums, axis=1) / np.sqrt(seeds * variance)
        yield statistics
