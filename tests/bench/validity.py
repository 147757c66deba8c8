"""Error rates, coverage and power of `compare_methods`, each over at least a thousand simulated experiments.

Outcomes come from generators of their own (`_generators`), with equal methods in truth. Families: some false "better"
or "worse". One comparison: p < 0.05, all pairs of methods pooled. Coverage: of one interval, and of all of a family at
once. Width: of the 95 % interval, relative to the one that known variances would give with the same degrees of freedom.
+- is twice the Monte Carlo standard error, and every bar has it added. Where one method is unlike the others the single
comparisons of that method are shown.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass

import numpy as np

from harness.stats import MethodComparison, Pair, compare_methods
from tests.bench import Row
from tests.bench._generators import Cell, draw, known_half_width

REPEATS = 1000
LEVEL, UNLIKE = 0.05, 0.07
POWER, WIDTH = 0.65, 1.2


@dataclass(frozen=True)
class Measured:
    """Rates over the experiments of one cell; NaN where a cell has no such comparison.

    Attributes:
        families: by family, some verdict "better" or "worse" although there is no difference.
        simultaneous: by family, every simultaneous interval covers.
        single: p < 0.05, over all pairs of methods.
        base: p < 0.05, methods against the untouched base.
        first: p < 0.05 in comparisons of the first method, which may be unlike the others or better.
        coverage: of the unadjusted interval, in comparisons of the first method.
        width: mean width of that interval, relative to known variances.
        unlike: some method was called unlike the others.
        runs_differ: two single runs were called different.
        contradictions: pairs whose verdict and simultaneous interval disagree, or whose interval has no length.
    """

    families: dict[str, float]
    simultaneous: dict[str, float]
    single: float
    base: float
    first: float
    coverage: float
    width: float
    unlike: float
    runs_differ: float
    contradictions: int


def simulate(cell: Cell, repeats: int = REPEATS, seed: int = 0) -> Measured:
    """Run the experiments of one cell."""
    random = np.random.default_rng([seed, *map(ord, repr(cell))])
    seen: dict[str, list[float]] = {}
    for _ in range(repeats):
        drawn = draw(cell, random)
        compared = compare_methods(
            drawn.outcomes,
            baseline="base" if cell.base else None,
            deterministic=["base"] if cell.base else (),
            weights=drawn.weights,
            clusters=drawn.clusters,
        )
        for name, value in _looked_at(cell, compared):
            seen.setdefault(name, []).append(value)
    mean = {name: float(np.mean(values)) for name, values in seen.items()}
    return Measured(
        families={name[7:]: value for name, value in mean.items() if name.startswith("family ")},
        simultaneous={name[8:]: value for name, value in mean.items() if name.startswith("covered ")},
        contradictions=int(np.sum(seen["contradictions"])),
        **{
            name: mean.get(name, float("nan"))
            for name in ("single", "base", "first", "coverage", "width", "unlike", "runs_differ")
        },
    )


def _looked_at(cell: Cell, compared: MethodComparison) -> Iterator[tuple[str, float]]:
    for name, family in compared.families.items():
        yield f"family {name}", any(pair.verdict in ("better", "worse") for pair in family.pairs)
        yield f"covered {name}", all(_covers(pair, cell, pair.adjusted_interval) for pair in family.pairs)
        yield "contradictions", sum(_contradicts(pair) for pair in family.pairs)
    every = compared.families["all"].pairs
    methods = [pair for pair in every if pair.b != "base"]
    first = [pair for pair in methods if pair.a == "method0"]
    yield "unlike", bool(compared.unlike)
    if every[0].scope == "runs":
        yield "runs_differ", float(np.mean([bool(pair.runs_differ) for pair in methods]))
        return
    yield "single", float(np.mean([pair.p < LEVEL for pair in methods]))
    yield "first", float(np.mean([pair.p < LEVEL for pair in first]))
    yield "coverage", float(np.mean([_covers(pair, cell, pair.interval) for pair in first]))
    against_base = [pair.p < LEVEL for pair in every if pair.b == "base"]
    if against_base:
        yield "base", float(np.mean(against_base))
    if known := known_half_width(cell):
        yield "width", float(np.mean([(pair.interval[1] - pair.interval[0]) / 2 for pair in first])) / known


def _covers(pair: Pair, cell: Cell, ends: tuple[float, float]) -> bool:
    truth = ("method0" in pair.a) * cell.gap / 100 - ("method0" in pair.b) * cell.gap / 100
    return ends[0] <= truth <= ends[1]


def _contradicts(pair: Pair) -> bool:
    low, high = pair.adjusted_interval
    excludes = low > 0 or high < 0
    said = pair.runs_differ if pair.scope == "runs" else pair.verdict in ("better", "worse")
    withheld = pair.verdict == "no verdict" and pair.scope == "methods"
    return low == high or (excludes != bool(said) and not withheld)


def cells() -> list[Cell]:
    """Return the grid: every items x seeds x methods, the seeds' noise in turn, then the corners one by one."""
    grid = [
        Cell(
            items=items,
            seeds=seeds,
            methods=methods,
            seed_points=(0.0, 0.5, 1.0, 2.0)[(i + j + k) % 4],
            shared=(0.0, 0.9)[(i + j // 2 + k) % 2],
        )
        for i, items in enumerate((30, 260, 1319))
        for j, seeds in enumerate((1, 2, 3, 5, 10))
        for k, methods in enumerate((2, 4, 12, 21))
    ]
    corners = [Cell(seeds=seeds, methods=k, seed_points=2.0) for seeds in (2, 3) for k in (4, 12, 21)]
    corners += [Cell(seeds=seeds, methods=k, seed_points=1.0) for seeds in (2, 3) for k in (4, 12)]
    corners += [
        Cell(outcome=outcome, items=items, seeds=seeds, methods=k, shared=0.5 * (k == 12))
        for outcome in ("graded", "loss")
        for items in (30, 260, 1319)
        for seeds, k in ((2, 12), (3, 4), (5, 4))
    ]
    corners += [
        Cell(items=items, cluster=10, outcome=outcome, seeds=seeds)
        for items in (260, 1319)
        for outcome in ("binary", "graded")
        for seeds in (1, 3)
    ]
    return list(dict.fromkeys([*grid, *corners]))


def unlike_cells() -> list[Cell]:
    """Return the cells in which the first method has three times the others' seed deviation."""
    return [
        Cell(seeds=seeds, methods=k, seed_points=points, odd=3.0, items=items)
        for seeds, k in ((2, 12), (3, 4), (3, 12), (5, 4), (5, 12), (10, 12))
        for items, points in ((260, 1.0), (1319, 1.0), (1319, 2.0))
    ]


def rows() -> list[Row]:
    """Every cell with its bars, those of power at the end."""
    power = Cell(methods=4, seeds=3, seed_points=1.0, gap=3.0, base=False)
    asked = [*cells(), *unlike_cells(), power]
    with ProcessPoolExecutor(2) as pool:
        measured = dict(zip(asked, pool.map(simulate, asked), strict=True))
    shown = [row for cell in cells() for row in _rows(cell, measured[cell], LEVEL)]
    shown += [row for cell in unlike_cells() for row in _rows(cell, measured[cell], UNLIKE)]
    low = POWER - _error(POWER)
    return [
        *shown,
        Row(name="power: 3 points, 3 seeds, 4 methods, 1,319 items, seeds 1 point", measured=measured[power].first,
            bar=low, unit="", at_most=False, note=f"one comparison; at least {POWER} less +-{_error(POWER):.3f}"),
        Row(name="coverage of the same 3 points", measured=measured[power].coverage, bar=0.95 - _error(0.05), unit="",
            at_most=False),
    ]  # fmt: skip


def _rows(cell: Cell, measured: Measured, single: float) -> list[Row]:
    name = str(cell)
    families = max(measured.families.values())
    each = ", ".join(f"{family} {rate:.3f}" for family, rate in measured.families.items())
    covered = ", ".join(f"{family} {rate:.3f}" for family, rate in measured.simultaneous.items())
    found = [
        Row(name=f"{name}: false families", measured=families, bar=LEVEL + _error(LEVEL), unit="",
            note=f"{each}; simultaneous coverage: {covered}; +-{_error(LEVEL):.3f}"),
        Row(name=f"{name}: contradictions", measured=float(measured.contradictions), bar=0.0, unit=""),
    ]  # fmt: skip
    if math.isnan(measured.single):
        rate, what = measured.runs_differ, "two runs called different" if cell.seed_points == 0 else ""
        return [
            *found,
            *([Row(name=f"{name}: {what}", measured=rate, bar=LEVEL + _error(LEVEL), unit="")] if what else []),
        ]
    judged = measured.first if cell.odd != 1 else measured.single
    beside = f"all pairs {measured.single:.3f}, against base {measured.base:.3f}, called unlike {measured.unlike:.2f}"
    found.append(
        Row(name=f"{name}: one comparison", measured=judged, bar=single + _error(single), unit="", note=beside)
    )
    if cell.odd == 1:
        low = 0.95 - _error(0.05)
        found.append(Row(name=f"{name}: coverage", measured=measured.coverage, bar=low, unit="", at_most=False))
    if cell.seeds >= 3 and cell.items >= 260 and not math.isnan(measured.width):
        found.append(Row(name=f"{name}: width", measured=measured.width, bar=WIDTH, unit="x"))
    return found


def _error(rate: float) -> float:
    return 2 * math.sqrt(rate * (1 - rate) / REPEATS)
