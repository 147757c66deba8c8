"""The statistics of a page once more, with other code: sums over arrays, scipy's distributions, draws of its own."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import scipy.stats
from traced_files import Files, Line

from harness import stats

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
    """Two lines with the comparison of the public function, on tables that are laid out here."""

    a: Line
    b: Line
    result: stats.Pair

    @property
    def words(self) -> str:
        one = self.result
        if one.scope == "runs" and math.isfinite(one.interval[0]):
            return "these runs differ significantly" if one.runs_differ else "these runs do not differ significantly"
        return WORDS[one.verdict]


WORDS = {
    "better": "significantly better",
    "worse": "significantly worse",
    "equivalent": "equivalent",
    "not significant": "no significant difference",
    "no verdict": "no verdict",
}


@dataclass(frozen=True)
class MetricComparison:
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

    @property
    def lines(self) -> list[Line]:
        return [*self.ranked, *([self.base] if self.base else [])]

    @cached_property
    def _tables(self) -> dict[str, np.ndarray]:
        """Outcomes by the names that the report prints, in whose order the adjustment is simulated."""
        seeds = sorted({seed for line in self.ranked for seed in line.seeds})
        tables = {}
        for line in self.lines:
            values = line.outcomes(self.eval_id, self.metric)
            tables[line.name] = values if line.is_base else np.full((len(seeds), values.shape[1]), np.nan)
            for seed, row in zip(line.seeds, values, strict=True) if not line.is_base else ():
                tables[line.name][seeds.index(seed)] = row
        return tables

    def _is_base(self, name: str) -> bool:
        return self.base is not None and name == self.base.name

    @cached_property
    def compared(self) -> stats.MethodComparison:
        base = self.base.name if self.base else None
        return self._compare(self._tables, baseline=base, deterministic=[base] if base else [])

    def _compare(self, tables: dict[str, np.ndarray], **options) -> stats.MethodComparison:
        return stats.compare_methods(
            tables,
            **options,
            margin=MARGIN,
            weights=None if self.higher else self.look.weights,
            higher_is_better=self.higher,
        )

    @cached_property
    def every_two(self) -> stats.MethodComparison:
        """The methods among themselves: the untouched model has a family of its own."""
        methods = {name: values for name, values in self._tables.items() if not self._is_base(name)}
        return self._compare(methods, families=("all",))

    def family(self, name: str) -> list[Pair]:
        by_name = {line.name: line for line in self.lines}
        several = len(self.ranked) > 1
        compared = self.every_two if name == "all" and several else self.compared
        found = compared.families.get(name) if name != "all" or several else None
        return [Pair(by_name[one.a], by_name[one.b], one) for one in (found.pairs if found else ())]

    @property
    def between(self) -> list[Pair]:
        return self.family("all")

    def flipped(self, pair: Pair) -> float | None:
        """The exact p of flipping every seed's difference, from six shared seeds on."""
        a, b = (dict(zip(x.seeds, x.outcomes(self.eval_id, self.metric), strict=True)) for x in (pair.a, pair.b))
        common = [*a] if pair.b.is_base else [seed for seed in a if seed in b]
        if len(common) < 6:
            return None
        fixed = next(iter(b.values()))
        gaps = np.array([(a[s] - (fixed if pair.b.is_base else b[s])).sum() for s in common])
        signs = np.array([*itertools.product((1, -1), repeat=len(common))])
        return float(np.mean(np.abs(signs @ gaps) >= abs(gaps.sum()) - 1e-9))

    @property
    def detectable(self) -> float:
        reach = sorted(pair.result.detectable for pair in self.family("best"))
        return reach[len(reach) // 2]

    def drawn(self, lines: Sequence[Line], seeds: bool = True) -> np.ndarray:
        """Resampled scores, higher is better, with shape (lines, draws): the same items for every line."""
        chosen = np.random.default_rng(len(self.title)).integers(self.num_items, size=(DRAWS, self.num_items))
        below = self.look.weights[chosen].sum(axis=1)
        found = []
        for place, line in enumerate(lines):
            values = line.outcomes(self.eval_id, self.metric)
            drawn = values.mean(axis=0)[chosen].sum(axis=1) / below
            for variance, df in seed_parts(values, self.look.weights) if seeds else ():
                drawn = drawn + np.random.default_rng(place).standard_t(df, DRAWS) * math.sqrt(variance)
            found.append(drawn if self.higher else -drawn)
        return np.array(found)
