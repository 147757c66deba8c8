"""A sum of methods' scores with signs, such as a difference or half of one, with the interval of a comparison."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.compare import compare_methods
from harness.stats.estimate import Floats, clustered, over_seeds

_PLUS, _MINUS = "plus", "minus"


@dataclass(frozen=True)
class Contrast:
    """A sum of scores.

    Attributes:
        value: in the unit of the outcomes.
        interval: confidence interval at the level that was asked for; None where it says nothing about methods.
        why: why there is no interval; "" where there is one.
        item_variance: variance of the value that the items bring.
        seed_variance: variance of the value that the seeds bring.
        seeds: seeds that it rests on.
        items: items that it rests on.
    """

    value: float
    interval: tuple[float, float] | None
    why: str
    item_variance: float
    seed_variance: float
    seeds: int
    items: int


def contrast(
    outcomes: Mapping[str, Floats],
    factors: Mapping[str, float],
    level: float,
    *,
    weights: ArrayLike | None = None,
    clusters: ArrayLike | None = None,
    deterministic: Collection[str] = (),
) -> Contrast:
    """Return the sum of factor x score with its interval.

    A plain difference of two methods borrows the seed variance of all, as every comparison of them does. Another sum
    is that of its positive part against its negative part, as if they were two methods.

    Args:
        outcomes: by method, shape (seeds, items), a lost seed as a row of NaN; deterministic ones have one row.
        factors: of the methods in the sum.
        level: the interval misses with this probability.
        weights: of the items.
        clusters: of the items.
        deterministic: methods in which nothing is drawn.

    Raises:
        ValueError: as `compare_methods`.
    """
    sides, fixed, pair = _sides(outcomes, factors, deterministic)
    compared = compare_methods(
        sides,
        baseline=pair[1],
        families=("baseline",),
        level=level,
        weights=weights,
        clusters=clusters,
        deterministic=fixed,
    )
    result = compared.pair(*pair, family="baseline")
    whole = np.atleast_2d(sides[pair[0]]) - np.atleast_2d(sides[pair[1]])
    complete = whole[~np.isnan(whole[:, 0])]
    parts = over_seeds(*clustered(complete, weights, clusters)).parts if len(complete) else ()
    return Contrast(
        value=result.difference,
        interval=None if result.why else result.interval,
        why=result.why,
        item_variance=parts[0].variance if parts else float("nan"),
        seed_variance=parts[1].variance if len(parts) > 1 else 0.0,
        seeds=result.seeds,
        items=whole.shape[1],
    )


def score_interval(
    outcomes: Floats, level: float = 0.05, *, weights: ArrayLike | None = None, clusters: ArrayLike | None = None
) -> tuple[float, float] | None:
    """Return the interval of one score: the values from which the test of a comparison does not tell it.

    The seeds' variance is that of the method alone. With one seed it is an interval of this run.

    Args:
        outcomes: shape (seeds, items), a lost seed as a row of NaN.
        level: the interval misses with this probability.
        weights: of the items.
        clusters: of the items.

    Returns:
        The ends, no lower than zero where no outcome is; None where nothing varies.
    """
    compared = compare_methods(
        {_PLUS: outcomes, _MINUS: np.zeros((1, outcomes.shape[1]))},
        baseline=_MINUS,
        families=("baseline",),
        level=level,
        weights=weights,
        clusters=clusters,
        deterministic=[_MINUS],
    )
    low, high = compared.pair(_PLUS, _MINUS, family="baseline").interval
    if not np.isfinite(low):
        return None
    return (max(low, 0.0) if np.nanmin(outcomes) >= 0 else low), high


def _sides(
    outcomes: Mapping[str, Floats], factors: Mapping[str, float], deterministic: Collection[str]
) -> tuple[dict[str, Floats], list[str], tuple[str, str]]:
    """Return (outcomes to compare, the deterministic ones among them, the pair whose difference is the sum)."""
    signed = {sign: [name for name, factor in factors.items() if factor * sign > 0] for sign in (1, -1)}
    if {*factors.values()} == {1.0, -1.0} and len(factors) == 2:
        return dict(outcomes), [*deterministic], (signed[1][0], signed[-1][0])
    items = next(iter(outcomes.values())).shape[1]
    sides: dict[str, Floats] = {}
    fixed = []
    for key, sign in ((_PLUS, 1), (_MINUS, -1)):
        names = signed[sign]
        zero = np.zeros((1, items))
        sides[key] = np.asarray(sum((abs(factors[name]) * np.atleast_2d(outcomes[name]) for name in names), zero))
        if all(name in deterministic for name in names):
            fixed.append(key)
    return sides, fixed, (_PLUS, _MINUS)
