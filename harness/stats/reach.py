"""Half-widths and p-values of estimates whose variance is a sum of parts, each with its own degrees of freedom.

A half-width at a two-sided level is sqrt(sum of t_k^2 variance_k); a p-value is the level at which it just reaches the
estimate. With one part both are Student's. Source: Howe, JASA 69, 1974, page 789, for a sum of two.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from harness.stats.estimate import Floats

_STEPS = 10  # rounds of the root search at most: the bracket is narrow, and it closes to twelve digits
_CLOSE = 1e-13  # of the logarithm of a half-width: close enough to end the search
_SMALLEST = 1e-140  # p-value: a quantile of one degree of freedom, squared, still is a float


@dataclass(frozen=True)
class Noise:
    """The variances of several estimates, part by part.

    Attributes:
        variances: shape (parts, estimates).
        degrees: degrees of freedom with which each variance was estimated, of the same shape.
    """

    variances: Floats
    degrees: Floats

    def part(self, places: np.ndarray) -> Noise:
        """Return the noise of some of the estimates."""
        return Noise(self.variances[:, places], self.degrees[:, places])

    @property
    def standard_errors(self) -> Floats:
        """Return the standard error of each estimate."""
        return np.asarray(np.sqrt(self.variances.sum(axis=0)))

    def half_widths(self, level: float) -> Floats:
        """Return the half-width of each interval that misses with probability `level`."""
        return _reach(self, np.full(self.variances.shape[1], level))

    def p_values(self, distances: Floats) -> Floats:
        """Return the two-sided p-value of each distance from zero; 1 for a distance of zero, whatever its noise."""
        return _p_values(self, np.abs(distances))

    def detectable(self, level: float, power: float) -> Floats:
        """Return the true difference of each estimate that a two-sided test at `level` detects with that power."""
        total = _quantiles(self.degrees, level / 2) + _quantiles(self.degrees, 1 - power)
        return np.asarray(np.sqrt((total**2 * self.variances).sum(axis=0)))


def _p_values(noise: Noise, distances: Floats) -> Floats:
    """Solve half_width(p) = distance by false position on the logarithms, between the extreme parts' own p-values."""
    from scipy.special import stdtr

    p = np.ones(len(distances))
    errors = noise.standard_errors
    p[(distances > 0) & (errors == 0)] = 0.0
    open_ = np.flatnonzero((distances > 0) & (errors > 0))
    if not len(open_):
        return p
    used = Noise(noise.variances[:, open_], noise.degrees[:, open_])
    target = np.log(distances[open_])
    counted = used.variances > 0
    fewest = np.where(counted, used.degrees, np.inf).min(axis=0)
    most = np.where(counted, used.degrees, 0.0).max(axis=0)
    scaled = distances[open_] / errors[open_]
    low, high = (np.log(np.clip(2 * stdtr(df, -scaled), _SMALLEST, 1.0)) for df in (most, fewest))
    below, above = _excess(used, low, target), _excess(used, high, target)
    last = np.zeros(len(open_))
    for _ in range(_STEPS):
        gap = np.where(below == above, 1.0, below - above)
        middle = np.clip((high * below - low * above) / gap, low, high)
        value = _excess(used, middle, target)
        if np.abs(value).max() < _CLOSE:
            break
        side = np.where(value > 0, 1.0, -1.0)  # 1: the half-width is still too long, the p-value is larger
        again = side == last  # the end that stays twice is halved: the Illinois rule
        above = np.where(side > 0, np.where(again, above / 2, above), value)
        below = np.where(side > 0, value, np.where(again, below / 2, below))
        low, high = np.where(side > 0, middle, low), np.where(side > 0, high, middle)
        last = side
    p[open_] = np.exp(middle)
    return p


def _excess(noise: Noise, log_level: Floats, target: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(_reach(noise, np.exp(log_level)), 1e-300)) - target)


def _reach(noise: Noise, levels: Floats) -> Floats:
    squares = _quantiles(noise.degrees, levels / 2) ** 2 * noise.variances
    return np.asarray(np.sqrt(squares.sum(axis=0)))


def _quantiles(degrees: Floats, tails: Floats | float) -> Floats:
    """Return Student's upper quantiles."""
    from scipy.special import stdtrit  # without the checks of scipy.stats, fifty times as fast

    return np.asarray(-stdtrit(degrees, np.broadcast_to(tails, degrees.shape)))
