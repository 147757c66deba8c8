"""The best learning rate of a method, and the ratio of two, with an interval from resampled seeds and items.

In every draw the validation loss is resampled at each rate of the grid. A parabola through the lowest point and its
neighbors, over the logarithm of the rate, gives the best rate between the points of the grid. Where the lowest point
is the first or the last of the grid, the best rate lies beyond it and the interval is open on that side.

The seeds' noise is drawn for each rate alone. Where trials share their seeds, much of it is common to all rates and
does not move the best one: the interval then is wider than it must be, and misses less often than its level says.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from harness.stats.estimate import Floats, clustered
from harness.stats.resample import bootstrap

DRAWS = 10_000


@dataclass(frozen=True)
class Profile:
    """The validation losses of one method over its rates.

    Attributes:
        rates: ascending learning rates of the grid.
        losses: for each rate, the losses of shape (seeds, items); None where a trial diverged, which counts as
            infinitely bad.
    """

    rates: tuple[float, ...]
    losses: tuple[Floats | None, ...]


@dataclass(frozen=True)
class RateRatio:
    """A ratio of best rates, its interval (infinite or zero where a grid ends too early), and why it is open.

    `inside` is whether both best rates lie inside their grids, and resamples alone beyond them.
    """

    value: float
    low: float
    high: float
    why: str
    inside: bool


def rate_ratio(
    above: Profile, below: Profile, weights: ArrayLike | None, level: float, clusters: ArrayLike | None = None
) -> RateRatio:
    """Return the ratio of the best rate of `above` to that of `below`.

    Args:
        above: the numerator, on the same items as `below`.
        below: the denominator.
        weights: the items' weights, such as their answer tokens.
        level: the interval misses with this probability.
        clusters: of the items.

    Raises:
        ValueError: fewer than three rates, rates that do not ascend, or no trial that ended well.
    """
    for profile in (above, below):
        _check(profile)
    tables = [loss for profile in (above, below) for loss in profile.losses if loss is not None]
    losses, sizes = (
        [clustered(loss, weights, clusters)[0] for loss in tables],
        clustered(tables[0], weights, clusters)[1],
    )
    means = [_means(loss, sizes) for loss in losses]
    draws = bootstrap(losses, sizes, draws=DRAWS)
    columns = np.concatenate([np.array(means)[:, None], draws], axis=1)
    split = sum(loss is not None for loss in above.losses)
    first, second = _best(above, columns[:split]), _best(below, columns[split:])
    value = first.middle[0] - second.middle[0]
    low = float(np.quantile(first.low[1:] - second.high[1:], level / 2, method="lower"))
    high = float(np.quantile(first.high[1:] - second.low[1:], 1 - level / 2, method="higher"))
    inside = all(math.isfinite(end[0]) for best in (first, second) for end in (best.low, best.high))
    return RateRatio(math.exp(value), math.exp(low), math.exp(high), _why(first, second, level), inside)


@dataclass(frozen=True)
class _Best:
    """Logarithms of the best rate in each draw; low and high are infinite where it lies beyond the grid."""

    middle: Floats
    low: Floats
    high: Floats


def _best(profile: Profile, losses: Floats) -> _Best:
    """Return the best rate of each column of losses, shape (rates that ended well, draws)."""
    usable = [i for i, loss in enumerate(profile.losses) if loss is not None]
    table = np.full((len(profile.rates), losses.shape[1]), np.inf)
    table[usable] = losses
    x = np.log(np.array(profile.rates))
    lowest = table.argmin(axis=0)
    middle = x[lowest].astype(np.float64)
    inside = (lowest > 0) & (lowest < len(x) - 1)
    place = lowest[inside]
    columns = np.flatnonzero(inside)
    left, center, right = (table[place + step, columns] for step in (-1, 0, 1))
    middle[inside] = _vertex(x[place - 1], x[place], x[place + 1], left, center, right)
    low, high = middle.copy(), middle.copy()
    low[lowest == 0] = -np.inf
    high[lowest == len(x) - 1] = np.inf
    return _Best(middle, low, high)


def _vertex(a: Floats, b: Floats, c: Floats, left: Floats, center: Floats, right: Floats) -> Floats:
    """Return the lowest point of parabolas through three points; beside a diverged one, the middle of what is left."""
    with np.errstate(invalid="ignore", divide="ignore"):
        first, second = (b - a) * (center - right), (b - c) * (center - left)
        vertex = b - 0.5 * ((b - a) * first - (b - c) * second) / (first - second)
    vertex = np.where(np.isfinite(left) & np.isfinite(right), vertex, b)
    return np.asarray(np.where(np.isfinite(vertex), np.clip(vertex, a, c), b))


def _why(first: _Best, second: _Best, level: float) -> str:
    """Return which end of a grid is the best rate too often for a closed interval; "" where none is."""
    open_ends = []
    for name, best in (("first", first), ("second", second)):
        for side, ends in (("low", best.low), ("high", best.high)):
            share = float(np.mean(np.isinf(ends[1:])))
            if share >= level / 2:
                end = "lowest" if side == "low" else "highest"
                open_ends.append(
                    f"the {end} rate of the {name} has the lowest loss in {_percent(share)} % of the resamples"
                )
    return "; ".join(open_ends)


def _percent(share: float) -> str:
    """Return a share in percent, small ones with two significant digits."""
    return f"{100 * share:.0f}" if share >= 0.1 else f"{100 * share:.2g}"


def _means(loss: Floats, weights: ArrayLike | None) -> float:
    below = np.ones(loss.shape[1]) if weights is None else np.asarray(weights, dtype=np.float64)
    return float(loss.mean(axis=0).sum() / below.sum())


def _check(profile: Profile) -> None:
    if len(profile.rates) < 3:
        raise ValueError(f"rates {', '.join(f'{r:g}' for r in profile.rates)}: a best rate needs at least three")
    if list(profile.rates) != sorted(set(profile.rates)):
        raise ValueError("the rates must ascend, each once")
    if all(loss is None for loss in profile.losses):
        raise ValueError("no trial completed")
