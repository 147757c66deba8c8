"""The best that any test of one comparison can do where one method's seeds may scatter more than the others'.

Noise is that of the seeds alone, independent and normal. A test sees the difference of two methods' means, the
variances of both and that of all others together. It is told by how much an odd method's deviation is larger, but not
which method is odd, if any. It rejects where |difference| > c(variances), and does not depend on the scale. Its power
for like methods is to be large, with at most `like` false among like methods and at most `odd` in comparisons of an odd
one.

By Lagrange duality any two multipliers give an upper bound of the power, and the best ones give the least. For every
drawn shape of the variances the best c is chosen, so that no such test is left out. A test that must estimate the
seeds' shared effect, or does not know the ratio, has less. Noise of the items is known:
beside it an odd method matters less, and more power can be had.

Source: Lehmann and Romano, Testing Statistical Hypotheses, 2005, section 3.6 (generalized Neyman-Pearson lemma) and
chapter 6 (invariance).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import nctdtr, stdtr

DRAWS = 6_000
_SEED = 5


@dataclass(frozen=True)
class Setting:
    """The comparison: seeds and number of methods, the odd one's ratio, and the difference in standard errors."""

    seeds: int
    methods: int
    ratio: float = 3.0
    noncentrality: float = 2.78


@dataclass(frozen=True)
class _Shapes:
    """Drawn shapes of the variances with the probabilities of rejection, for each critical value of a grid.

    Attributes:
        power: of like methods, shape (draws, critical values); draws weighted by the density of like methods.
        false: of like methods and of one odd, shape (2, draws, critical values), weighted likewise.
    """

    power: np.ndarray
    false: np.ndarray


def most_power(setting: Setting, like: float, odd: float) -> float:
    """Return an upper bound of the power for like methods of any test with these error rates."""
    shapes = _shapes(setting)
    allowed = np.array([like, odd])

    def bound(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        gains = shapes.power - np.tensordot(multipliers, shapes.false, axes=1)
        best = gains.argmax(axis=1)
        rows = np.arange(len(gains))
        value = gains[rows, best].mean() + multipliers @ allowed
        return float(value), allowed - shapes.false[:, rows, best].mean(axis=1)

    starts = ([1.0, 1.0], [3.0, 0.3], [0.3, 3.0])
    found = [minimize(bound, start, jac=True, bounds=[(0, None)] * 2, method="L-BFGS-B") for start in starts]
    return float(min(result.fun for result in found))


def _shapes(setting: Setting) -> _Shapes:
    free, others = setting.seeds - 1, (setting.seeds - 1) * (setting.methods - 2)
    degrees = free * setting.methods
    random = np.random.default_rng(_SEED)
    ratios = [(1.0, 1.0), (setting.ratio, 1.0), (1.0, setting.ratio)]
    first, second, rest = np.concatenate(
        [
            np.stack([a**2 * random.chisquare(free, DRAWS), b**2 * random.chisquare(free, DRAWS),
                      random.chisquare(others, DRAWS)])
            for a, b in ratios
        ], axis=1,
    )  # fmt: skip
    squares = [(first / a**2 + second / b**2) / rest + 1 for a, b in ratios]
    densities = np.stack(
        [(a * b) ** -free * square ** (-degrees / 2) for (a, b), square in zip(ratios, squares, strict=True)]
    )
    weights = densities / densities.mean(axis=0)
    grid = np.concatenate([np.linspace(1.2, 3, 37), np.geomspace(3.1, 12, 25)])
    unit = np.sqrt(2 / setting.seeds * squares[0] / degrees)
    false = []
    for (a, b), square, weight in zip(ratios, squares, weights, strict=True):
        error = np.sqrt((a**2 + b**2) / setting.seeds * square / degrees)
        false.append(weight[:, None] * 2 * stdtr(degrees, -grid * (unit / error)[:, None]))
    seen = 1 - nctdtr(degrees, setting.noncentrality, grid) + nctdtr(degrees, setting.noncentrality, -grid)
    never = np.zeros((len(first), 1))  # a critical value without end
    return _Shapes(
        power=np.hstack([weights[0][:, None] * seen, never]),
        false=np.stack([np.hstack([one, never]) for one in (false[0], (false[1] + false[2]) / 2)]),
    )
