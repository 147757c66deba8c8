"""The statistics of a page once more, with other code: sums over arrays, scipy's distributions, draws of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.stats
import statsmodels.stats.multitest
from traced_files import Files, Line

DRAWS = 6000
SHARE = 0.06  # what the share of 2000 draws and ours may be apart: four standard errors at one half
MARGIN, LEVEL = 0.01, 0.05
NO_SEEDS = (float("nan"), 0)

Parts = list[tuple[float, int]]  # variance, degrees of freedom


def seed_parts(values: np.ndarray, weights: np.ndarray) -> Parts:
    """The seeds' variance beyond the items', from the mean squares of a two-way table."""
    seeds, items = values.shape
    if seeds < 2:
        return []
    z = (values - values.mean(axis=0).sum() / weights.sum() * weights) * items / weights.sum()
    table = z - z.mean(axis=0) - z.mean(axis=1)[:, None] + z.mean()
    error = (table**2).sum() / ((seeds - 1) * (items - 1))
    return [(max(items * z.mean(axis=1).var(ddof=1) - error, 0) / (seeds * items), seeds - 1)]


def value_of(values: np.ndarray, weights: np.ndarray) -> float:
    return float(values.mean(axis=0).sum() / weights.sum())


def parts_of(values: np.ndarray, weights: np.ndarray, sides: Sequence[np.ndarray]) -> Parts:
    """(variance, degrees of freedom) of the items, then of the seeds of each side."""
    middle = values.mean(axis=0)
    residuals = middle - value_of(values, weights) * weights
    variance = len(middle) * residuals.var(ddof=1) / weights.sum() ** 2
    return [(variance, len(middle) - 1), *(part for side in sides for part in seed_parts(side, weights))]


def error_of(parts: Parts) -> float:
    return math.sqrt(sum(variance for variance, _ in parts))


def half_of(parts: Parts, tail: float = 0.025) -> float:
    return math.sqrt(sum(scipy.stats.t.isf(tail, df) ** 2 * variance for variance, df in parts))


def tail_of(distance: float, parts: Parts) -> float:
    """The one-sided p by bisection on the quantiles."""
    if distance < 0:
        return 1 - tail_of(-distance, parts)
    low, high = 0.0, 0.5
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if half_of(parts, middle) > distance else (low, middle)
    return high


@dataclass(frozen=True)
class Gap:
    """What a has more than b on the same items: shape (seeds, items), or the mean over the seeds where unpaired."""

    values: np.ndarray
    sides: tuple[np.ndarray, ...]
    weights: np.ndarray

    @property
    def value(self) -> float:
        return value_of(self.values, self.weights)

    @cached_property
    def parts(self) -> Parts:
        return parts_of(self.values, self.weights, self.sides)

    @property
    def paired(self) -> bool:
        return len(self.sides) == 1

    @cached_property
    def interval(self) -> tuple[float, float, float]:
        """Both ends, and how far other draws may move them."""
        chosen = np.random.default_rng(7).integers(len(self.weights), size=(DRAWS, len(self.weights)))
        middle = self.values.mean(axis=0)
        drawn = middle[chosen].sum(axis=1) / self.weights[chosen].sum(axis=1)
        for place, side in enumerate(self.sides):
            for variance, df in seed_parts(side, self.weights):
                drawn = drawn + np.random.default_rng(place).standard_t(df, DRAWS) * math.sqrt(variance)
        low, high = np.quantile(drawn, [0.025, 0.975])
        return float(low), float(high), 0.13 * float(high - low) / 2


def gap_of(a: Line, b: Line, eval_id: str, metric: str) -> Gap:
    weights = a.looks[eval_id].weights
    first, second = (one.outcomes(eval_id, metric) for one in (a, b))
    common = sorted(set(a.seeds) & set(b.seeds))
    if len(common) < 2 and sorted(a.seeds) != sorted(b.seeds):
        common = []
    if common and not a.is_base and not b.is_base:  # a seed that one side lost does not unpair the rest
        first = first[[a.seeds.index(seed) for seed in common]]
        second = second[[b.seeds.index(seed) for seed in common]]
    if a.is_base or b.is_base or common:
        return Gap(first - second, (first - second,), weights)
    return Gap(first.mean(axis=0, keepdims=True) - second.mean(axis=0, keepdims=True), (first, second), weights)


@dataclass(frozen=True)
class Pair:
    """Two lines with the tests of their difference, adjusted for the number of pairs."""

    a: Line
    b: Line
    gap: Gap
    p: float
    p_alike: float
    p_flip: float | None
    exact: bool
    verdict: str


@dataclass(frozen=True)
class Contest:
    """Everybody who was asked one thing: the trained lines from best to worst, and those who are kept out."""

    files: Files
    eval_id: str
    metric: str

    @property
    def look(self):
        return self.files.looks()[self.eval_id]

    @property
    def higher(self) -> bool:
        return self.metric != "loss"

    @property
    def title(self) -> str:
        return f"{self.look.task} ({self.metric})" if self.higher else self.look.task

    @property
    def digits(self) -> int:
        return 3 if self.higher else 4

    @property
    def num_items(self) -> int:
        return len(self.look.weights)

    def value(self, line: Line) -> float:
        return value_of(line.outcomes(self.eval_id, self.metric), self.look.weights)

    def parts(self, line: Line) -> Parts:
        values = line.outcomes(self.eval_id, self.metric)
        return parts_of(values, self.look.weights, [values])

    def at_chance(self, line: Line) -> float | None:
        """What guessing scores, where the line's score cannot be told from it."""
        chance = line.looks[self.eval_id].record["metrics"][self.metric].get("chance")
        reach = self.value(line) - half_of(self.parts(line))
        return chance if chance is not None and reach <= chance else None

    @cached_property
    def ranked(self) -> list[Line]:
        asked = [one for one in self.files.trained if self.eval_id in one.looks and self.at_chance(one) is None]
        return sorted(asked, key=lambda line: -self.value(line) if self.higher else self.value(line))

    @cached_property
    def left_out(self) -> list[Line]:
        return [one for one in self.files.trained if self.eval_id in one.looks and one not in self.ranked]

    @cached_property
    def base(self) -> Line | None:
        return self.files.base if self.files.base and self.eval_id in self.files.base.looks else None

    @cached_property
    def family(self) -> int:
        return math.comb(len(self.ranked) + (self.base is not None), 2)

    @cached_property
    def pairs(self) -> list[Pair]:
        sides = [*((one, self.base) for one in self.ranked if self.base), *itertools.combinations(self.ranked, 2)]
        gaps = [gap_of(a, b, self.eval_id, self.metric) for a, b in sides]
        tests = [self._tests(a, b, gap) for (a, b), gap in zip(sides, gaps, strict=True)]
        p, alike = (
            statsmodels.stats.multitest.multipletests([one[place] for one in tests], method="holm")[1]
            for place in (0, 1)
        )
        found = []
        for i, ((a, b), gap) in enumerate(zip(sides, gaps, strict=True)):
            better = (gap.value > 0) == self.higher
            verdict = "better" if better else "worse"
            verdict = verdict if p[i] < LEVEL else "equivalent" if alike[i] < LEVEL else "not separable"
            found.append(Pair(a, b, gap, p[i], alike[i], _flip(gap), tests[i][2], verdict))
        return found

    @property
    def between(self) -> list[Pair]:
        return [pair for pair in self.pairs if pair.b is not self.base]

    def _tests(self, a: Line, b: Line, gap: Gap) -> tuple[float, float, bool]:
        """p, p of equivalence, and whether the exact test was right to take; not adjusted."""
        answers = [one.outcomes(self.eval_id, self.metric) for one in (a, b)]
        right_or_wrong = self.higher and all(np.isin(one, (0, 1)).all() for one in answers)
        (variance, df), *rest = gap.parts
        unseen = [(variance + 3 / self.num_items**2, df), *rest] if right_or_wrong else gap.parts
        alike = max(tail_of(MARGIN + side * gap.value, unseen) for side in (1, -1))
        if right_or_wrong and all(len(one) == 1 for one in answers):
            wins, losses = (answers[0] > answers[1]).sum(), (answers[0] < answers[1]).sum()
            return (scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0), alike, True
        return min(1.0, 2 * tail_of(abs(gap.value), gap.parts)), alike, False

    @cached_property
    def detectable(self) -> float:
        """The upper median over the pairs of what 80 % of such comparisons would see."""
        reach = [
            math.sqrt(
                sum((scipy.stats.t.isf(0.025, df) + scipy.stats.t.isf(0.2, df)) ** 2 * v for v, df in p.gap.parts)
            )
            for p in self.between
        ]
        return sorted(reach)[len(reach) // 2]

    def drawn(self, lines: Sequence[Line]) -> np.ndarray:
        """Resampled scores, higher is better, with shape (lines, draws): the same items for every line."""
        chosen = np.random.default_rng(len(self.title)).integers(self.num_items, size=(DRAWS, self.num_items))
        below = self.look.weights[chosen].sum(axis=1)
        found = []
        for place, line in enumerate(lines):
            values = line.outcomes(self.eval_id, self.metric)
            drawn = values.mean(axis=0)[chosen].sum(axis=1) / below
            for variance, df in seed_parts(values, self.look.weights):
                drawn = drawn + np.random.default_rng(place).standard_t(df, DRAWS) * math.sqrt(variance)
            found.append(drawn if self.higher else -drawn)
        return np.array(found)


def _flip(gap: Gap) -> float | None:
    """The exact p of flipping every seed's difference, from six seeds on."""
    seeds = gap.values.sum(axis=1) / gap.weights.sum()
    if not gap.paired or len(seeds) < 6:
        return None
    signs = np.array([*itertools.product((1, -1), repeat=len(seeds))])
    return float(np.mean(np.abs(signs @ seeds) >= abs(seeds.sum()) - 1e-12))
