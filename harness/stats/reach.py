"""Intervals and p-values of estimates whose variance is a sum of parts, each with its own degrees of freedom.

The squared half-width at a two-sided level is q^2 sum(v_k) + sum((t_k^2 - q^2) v_k w_k), and no less than that of any
part alone: q is the quantile of the part with the most degrees of freedom, w_k the root of a part's share of the
variance. With one part it is Student's. Weights of 1 would be Howe's rule, which misses too rarely where the parts are
alike (2.5 % at two degrees of freedom and equal parts). The shares themselves are exact to the first order, and miss
too often with few degrees of freedom (5.9 %). Their roots miss with at most 5.02 %, at any share and any degrees of
freedom. A p-value is the level at which the half-width just reaches the estimate.

Right-or-wrong outcomes have a variance that depends on the difference: a true difference d takes discordant items, and
they make the items' variance at least about |d| / n. An end of an interval is the difference at which the test, with
the variance of that difference, is just significant. Where nothing differs in n items it is that of the score interval,
z^2 / (n + z^2), and not zero.

Sources: Howe, JASA 69, 1974, page 789; Welch, Biometrika 34, 1947; Tango, Statistics in Medicine 17, 1998, for the
score interval of a paired difference.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from harness.stats.estimate import Floats

_STEPS = 10  # rounds of the search for a p-value at most: the bracket is narrow, and it closes to twelve digits
_STEPS_OF_ENDS = 40
_CLOSE = 1e-13  # of a half-width: close enough to end the search
_SMALLEST = 1e-100  # p-value: below 1e-108 scipy's quantile is not a number next to two degrees of freedom


@dataclass(frozen=True)
class Noise:
    """The variances of several estimates, part by part; the first is that of the items.

    Attributes:
        variances: shape (parts, estimates).
        degrees: degrees of freedom with which each variance was estimated, of the same shape.
        rise: the items' variance at a true difference d is at least rise |d| - d^2 / units, shape (estimates,); 0 for
            graded outcomes.
        units: items, or clusters.
    """

    variances: Floats
    degrees: Floats
    rise: Floats
    units: int

    def part(self, places: np.ndarray) -> Noise:
        """Return the noise of some of the estimates."""
        return Noise(self.variances[:, places], self.degrees[:, places], self.rise[places], self.units)

    def at(self, differences: Floats) -> Noise:
        """Return the noise that the estimates have where these are the true differences, shape (estimates,)."""
        least = self.rise * np.abs(differences) - differences**2 / self.units
        return replace(self, variances=np.vstack([np.maximum(self.variances[:1], least), self.variances[1:]]))

    @property
    def standard_errors(self) -> Floats:
        """Return the standard error of each estimate."""
        return np.asarray(np.sqrt(self.variances.sum(axis=0)))

    def half_widths(self, level: Floats | float) -> Floats:
        """Return the half-width of each interval that misses with probability `level`, at a difference of zero."""
        return _reach(self.variances, _quantiles(self.degrees, level / 2))

    def intervals(self, estimates: Floats, level: Floats | float) -> Floats:
        """Return the ends of the intervals that miss with probability `level`, shape (2, estimates).

        An interval excludes zero exactly where the p-value of its estimate is below the level.
        """
        quantiles = _quantiles(self.degrees, level / 2)
        sides = np.array([[-1.0], [1.0]])
        ends = estimates + sides * _reach(self.variances, quantiles)
        least = self.rise * np.abs(ends) - ends**2 / self.units
        side, place = np.nonzero(least > self.variances[0])
        if len(place):
            near = _Near(estimates[place], ends[side, place], sides[side, 0])
            ends[side, place] = _ends(self.part(place), near, quantiles[:, place])
        return ends

    def p_values(self, distances: Floats) -> Floats:
        """Return the two-sided p-value of each distance from zero; 1 for a distance of zero, whatever its noise."""
        return _p_values(self, np.abs(distances))

    def detectable(self, level: Floats | float, power: float) -> Floats:
        """Return the true difference of each estimate that a two-sided test at `level` detects with that power.

        The variance is the one that this difference has.
        """
        total = _quantiles(self.degrees, level / 2) + _quantiles(self.degrees, 1 - power)
        least = _reach(self.variances, total)
        place = np.flatnonzero(self.rise * least - least**2 / self.units > self.variances[0])
        if len(place):
            near = _Near(np.zeros(len(place)), least[place], np.ones(len(place)))
            least[place] = _ends(self.part(place), near, total[:, place])
        return least


class _Near(NamedTuple):
    """Ends of intervals with the variance of a difference of zero; the side is -1 for a lower end, else 1."""

    estimates: Floats
    ends: Floats
    sides: Floats


def _ends(noise: Noise, near: _Near, quantiles: Floats) -> Floats:
    """Solve |end - estimate| = half-width at the end: outwards, or towards zero where zero is excluded."""
    excludes_zero = near.ends * near.sides < 0
    most = np.maximum(noise.variances[:1], noise.rise**2 * noise.units / 4)  # at any difference
    reach = _reach(np.vstack([most, noise.variances[1:]]), quantiles)
    far = np.where(excludes_zero, 0.0, near.estimates + near.sides * reach)

    def excess(ends: Floats) -> Floats:
        half = _reach(noise.at(ends).variances, quantiles)
        return np.asarray((near.sides * (ends - near.estimates) - half) / reach)

    return _root(excess, near.ends, far, (_STEPS_OF_ENDS, _CLOSE))


def _p_values(noise: Noise, distances: Floats) -> Floats:
    """Solve half_width(p) = distance on the logarithms, between the extreme parts' own p-values."""
    from scipy.special import stdtr

    p = np.ones(len(distances))
    errors = noise.standard_errors
    p[(distances > 0) & (errors == 0)] = 0.0
    open_ = np.flatnonzero((distances > 0) & (errors > 0))
    if not len(open_):
        return p
    used = noise.part(open_)
    target = np.log(distances[open_])
    counted = used.variances > 0
    fewest = np.where(counted, used.degrees, np.inf).min(axis=0)
    most = np.where(counted, used.degrees, 0.0).max(axis=0)
    scaled = distances[open_] / errors[open_]
    low, high = (np.log(np.clip(2 * stdtr(df, -scaled), _SMALLEST, 1.0)) for df in (most, fewest))

    def excess(log_levels: Floats) -> Floats:
        half = _reach(used.variances, _quantiles(used.degrees, np.exp(log_levels) / 2))
        return np.asarray(np.log(np.maximum(half, 1e-300)) - target)

    p[open_] = np.exp(_root(excess, low, high, (_STEPS, _CLOSE)))
    return p


def _root(function: Callable[[Floats], Floats], low: Floats, high: Floats, stop: tuple[int, float]) -> Floats:
    """Return the roots between `low` and `high` by false position, after some steps or when close enough."""
    steps, close = stop
    below, above = function(low), function(high)
    last, middle = np.zeros(len(low)), low
    for _ in range(steps):
        gap = np.where(below == above, 1.0, below - above)
        middle = np.clip((high * below - low * above) / gap, np.minimum(low, high), np.maximum(low, high))
        value = function(middle)
        if np.abs(value).max() < close:
            break
        side = np.where((value > 0) == (below > 0), 1.0, -1.0)  # 1: the root lies between the middle and `high`
        again = side == last  # the end that stays twice is halved: the Illinois rule
        above = np.where(side > 0, np.where(again, above / 2, above), value)
        below = np.where(side > 0, value, np.where(again, below / 2, below))
        low, high = np.where(side > 0, middle, low), np.where(side > 0, high, middle)
        last = side
    return middle


def _reach(variances: Floats, quantiles: Floats) -> Floats:
    """Return the half-widths that the module describes, from positive quantiles of the variances' shape."""
    total = np.add.reduce(variances)
    squares = quantiles**2
    least = np.where(variances > 0, squares, np.inf).min(axis=0)
    least = np.where(total > 0, least, 0.0)
    shares = np.divide(variances, total, out=np.zeros_like(variances), where=total > 0)
    more = np.where(variances > 0, squares - least, 0.0) * variances * np.sqrt(shares)
    return np.asarray(np.sqrt(np.maximum(least * total + more.sum(axis=0), (squares * variances).max(axis=0))))


def _quantiles(degrees: Floats, tails: Floats | float) -> Floats:
    """Return Student's upper quantiles."""
    from scipy.special import stdtrit  # without the checks of scipy.stats, fifty times as fast

    return np.asarray(-stdtrit(degrees, np.broadcast_to(tails, degrees.shape)))
