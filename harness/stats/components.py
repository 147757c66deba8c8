"""Variance components of scores whose sources of noise were crossed: so much is due to each stream of random numbers.

The analysis of variance of a full crossing with random effects: main effects of the factors, and a rest that holds
their interactions and the noise of the scores themselves. In a balanced table it equals REML where REML is positive.
Intervals are generalized confidence intervals: mean squares are divided by draws of their chi-squares.

Sources: Searle, Casella and McCulloch, Variance Components, 1992, chapter 4; Weerahandi, Generalized confidence
intervals, JASA 88, 1993; Hannig, Iyer and Patterson, Fiducial generalized confidence intervals, JASA 101, 2006.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product

import numpy as np

from harness.stats.estimate import Floats

REST = "rest"
_DRAWS = 20_000
_SEED = 53


@dataclass(frozen=True)
class Component:
    """A source of noise.

    Attributes:
        name: the factor, or `REST`.
        variance: estimate in the squared unit of the scores, never below zero.
        low: lower end of the interval.
        high: upper end of the interval.
        levels: how many values of the factor were crossed; 0 for the rest.
    """

    name: str
    variance: float
    low: float
    high: float
    levels: int


def components(
    scores: Mapping[tuple[int, ...], float], factors: Sequence[str], level: float = 0.05
) -> tuple[Component, ...]:
    """Return the components of a full crossing, the varied factors in their order and the rest last.

    Args:
        scores: a score for each combination of the factors' values, such as (init, order, data) -> accuracy.
        factors: names of the factors. One that has a single value is left out.
        level: an interval misses with this probability.

    Raises:
        ValueError: fewer than two factors vary, or a combination is missing; names one.
    """
    values = [sorted({key[place] for key in scores}) for place in range(len(factors))]
    varied = [place for place, own in enumerate(values) if len(own) > 1]
    if len(varied) < 2:
        raise ValueError("components need at least two streams with several seeds each, in every combination")
    for key in product(*values):
        if key not in scores:
            raise ValueError(f"no run has {', '.join(f'{f} {v}' for f, v in zip(factors, key, strict=True))}")
    table = np.array([scores[key] for key in product(*values)]).reshape([len(values[place]) for place in varied])
    return _components(table, [factors[place] for place in varied], level)


def _components(table: Floats, names: Sequence[str], level: float) -> tuple[Component, ...]:
    mean = float(table.mean())
    squares, degrees, repeats = [], [], []
    for axis, count in enumerate(table.shape):
        others = tuple(other for other in range(table.ndim) if other != axis)
        repeats.append(table.size // count)
        degrees.append(count - 1)
        squares.append(repeats[-1] * float(((table.mean(axis=others) - mean) ** 2).sum()) / degrees[-1])
    rest_degrees = table.size - 1 - sum(degrees)
    total = float(((table - mean) ** 2).sum())
    residual = max(total - sum(square * df for square, df in zip(squares, degrees, strict=True)), 0.0) / rest_degrees
    random = np.random.default_rng([_SEED, *table.shape])
    rest_draws = residual * rest_degrees / random.chisquare(rest_degrees, _DRAWS)
    parts = []
    for name, square, df, repeat, count in zip(names, squares, degrees, repeats, table.shape, strict=True):
        draws = np.maximum(square * df / random.chisquare(df, _DRAWS) - rest_draws, 0.0) / repeat
        parts.append(_component(name, max(square - residual, 0.0) / repeat, draws, count, level))
    return (*parts, _component(REST, residual, rest_draws, 0, level))


def _component(name: str, variance: float, draws: Floats, levels: int, level: float) -> Component:
    low, high = np.quantile(draws, [level / 2, 1 - level / 2])
    return Component(name, variance, float(low), float(high), levels)
