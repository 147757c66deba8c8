"""The best that any test of one comparison can do where one method's seeds may scatter more than the others'.

`most_power`: noise is that of the seeds alone, independent and normal. A test sees the difference of two methods'
means, the variances of both and that of all others together. It is told by how much an odd method's deviation is
larger, but not which method is odd, if any. It rejects where |difference| > c(variances), and does not depend on the
scale. Its power for like methods is to be large, with at most `like` false among like methods and at most `odd` in
comparisons of an odd one.

By Lagrange duality any two multipliers give an upper bound of the power, and the best ones give the least. For every
drawn shape of the variances the best c is chosen, so that no such test is left out. A test that must estimate the
seeds' shared effect, or does not know the ratio, has less.

`most_power_beside_items`: the same beside noise of the items, which is known and gives a scale. Seeds share an effect
of unknown size, so that a test sees the table of scores less the means of its columns, and nothing else of the seeds.
It knows the few deviations that are possible, and chooses by the probability of the table under each.

Source: Lehmann and Romano, Testing Statistical Hypotheses, 2005, section 3.6 (generalized Neyman-Pearson lemma) and
chapter 6 (invariance).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.optimize import minimize
from scipy.special import nctdtr, ndtr, stdtr

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
class ItemSetting:
    """A comparison beside the noise of the items; deviations and the difference are in points, variances their squares.

    Attributes:
        seeds: of each method.
        methods: that are compared.
        items: variance of a difference that the items bring.
        answers: variance of one seed's score that single answers bring.
        difference: to be detected.
        deviation: of the seeds, where it is to be detected.
        like: deviations of the seeds at which like methods are to be told apart falsely in at most 5 %.
        odd: the same of the others where one method deviates `ratio` times as much.
        ratio: of the odd method's deviation to the others'.
    """

    seeds: int = 3
    methods: int = 4
    items: float = 0.049 / 1319 * 1e4
    answers: float = 0.024 / 1319 * 1e4
    difference: float = 3.0
    deviation: float = 1.0
    like: tuple[float, ...] = (0.5, 1.0, 2.0)
    odd: tuple[float, ...] = (1.0, 2.0)
    ratio: float = 3.0


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

    return _least(bound, ([1.0, 1.0], [3.0, 0.3], [0.3, 3.0]))


def most_power_beside_items(setting: ItemSetting, like: float, odd: float, draws: int = DRAWS) -> float:
    """Return an upper bound of the power for like methods of any test with these error rates."""
    cases = _cases(setting)
    weights = _weights(setting, cases, draws)
    errors = np.sqrt(setting.items + (cases[:, 0] + cases[:, 1]) / setting.seeds)
    critical = np.concatenate([np.linspace(0.6, 8, 75), np.geomspace(8.2, 60, 40), [np.inf]])
    seen = ndtr((setting.difference - critical) / errors[0]) + ndtr((-setting.difference - critical) / errors[0])
    false = 2 * ndtr(-critical / errors[1:, None])
    count = len(setting.like)
    halves = np.repeat([1.0, 0.5], [count, 2 * len(setting.odd)])  # either of the two may be the odd one
    kinds = [*range(count), *(count + place // 2 for place in range(2 * len(setting.odd)))]
    allowed = np.repeat([like, odd], [count, len(setting.odd)])

    def bound(multipliers: np.ndarray) -> tuple[float, np.ndarray]:
        factors = (multipliers[kinds] * halves)[:, None] * weights[1:]
        best = (weights[0][:, None] * seen - factors.T @ false).argmax(axis=1)
        rates = halves * (weights[1:] * false[:, best]).mean(axis=1)
        gradient = allowed - np.bincount(kinds, rates)
        return float((weights[0] * seen[best]).mean() + multipliers @ gradient), gradient

    return _least(bound, [[start] * len(allowed) for start in (1.0, 3.0, 0.3)])


def _least(bound: Callable[[np.ndarray], tuple[float, np.ndarray]], starts: Sequence[Sequence[float]]) -> float:
    """Return the least bound over non-negative multipliers."""
    options = {"jac": True, "bounds": [(0, None)] * len(starts[0]), "method": "L-BFGS-B"}
    return float(min(minimize(bound, start, **options).fun for start in starts))


def _cases(setting: ItemSetting) -> np.ndarray:
    """Return the variances of the methods' scores in each case: that of the power, like methods, either one odd."""
    cases = [np.full(setting.methods, deviation) for deviation in (setting.deviation, *setting.like)]
    for deviation in setting.odd:
        for place in (0, 1):
            cases.append(np.full(setting.methods, deviation))
            cases[-1][place] *= setting.ratio
    return np.array(cases) ** 2 + setting.answers


def _weights(setting: ItemSetting, cases: np.ndarray, draws: int) -> np.ndarray:
    """Return the density of drawn tables under each case over their mean density, shape (cases, draws of all cases)."""
    random = np.random.default_rng(_SEED)
    names = np.column_stack([np.ones(setting.methods), np.eye(setting.methods)[:, 1:]])
    contrasts = np.linalg.qr(names)[0][:, 1:].T  # what a shared effect of a seed leaves
    covariances = contrasts @ (cases[:, :, None] * contrasts.T)
    shape = (draws, setting.seeds - 1, setting.methods - 1)
    tables = np.concatenate([random.standard_normal(shape) @ np.linalg.cholesky(one).T for one in covariances])
    squares = np.einsum("nsi,cij,nsj->cn", tables, np.linalg.inv(covariances), tables, optimize=True)
    logs = -0.5 * (squares + (setting.seeds - 1) * np.linalg.slogdet(covariances)[1][:, None])
    densities = np.exp(logs - logs.max(axis=0))
    return np.asarray(densities / densities.mean(axis=0))


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
