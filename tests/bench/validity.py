"""Error rates, coverage and power of `compare_methods`, each over at least a thousand simulated experiments.

Outcomes come from generators of their own (`_generators`), with equal methods in truth. Families: some false "better"
or "worse". One comparison: p < 0.05, all pairs of methods pooled. Coverage: of one interval, and of all of a family at
once. Width: of the 95 % interval, relative to the one that known variances would give with the same degrees of freedom.
+- is twice the Monte Carlo standard error, and every bar has it added. Where one method is unlike the others the single
comparisons of that method are shown. No test of two or three seeds can hold 7 % there and the power for like methods at
once: the last rows show the bound (`_bound`), beside the noise of the items and where seeds are all the noise. Looks:
seeds are added, one at a time, until every comparison with the best is decided; false verdicts are counted over all
looks, coverage at the look that was the last. Processes: one for each core that may be used (`taskset -c 0 make bench
PART=validity` takes one). `HARNESS_BENCH_CELLS=FOLDER` stores finished cells there, so that an interrupted grid goes on
where it was; `HARNESS_BENCH=quick` takes only what is stored.
"""

from __future__ import annotations

import hashlib
import math
import os
import pickle
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar, cast

import numpy as np

from harness.stats import MethodComparison, Pair, compare_methods
from harness.stats.sequential import look_levels
from tests.bench import Row
from tests.bench._bound import ItemSetting, Setting, most_power, most_power_beside_items
from tests.bench._generators import Cell, draw, known_half_width

_Result = TypeVar("_Result")

REPEATS = 1000
LEVEL, UNLIKE = 0.05, 0.07
POWER, WIDTH = 0.65, 1.2
FIRST, MOST = 3, 12  # seeds at the first look and at the last


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


def _truth(pair: Pair, cell: Cell) -> float:
    return ((pair.a == "method0") - (pair.b == "method0")) * cell.gap / 100


def _covers(pair: Pair, cell: Cell, ends: tuple[float, float]) -> bool:
    return ends[0] <= _truth(pair, cell) <= ends[1]


def _contradicts(pair: Pair) -> bool:
    low, high = pair.adjusted_interval
    excludes = low > 0 or high < 0
    said = pair.runs_differ if pair.scope == "runs" else pair.verdict in ("better", "worse")
    withheld = pair.verdict == "no verdict" and pair.scope == "methods"
    return low == high or (excludes != bool(said) and not withheld)


@dataclass(frozen=True)
class Looked:
    """Rates over experiments in which seeds were added until every comparison with the best was decided.

    Attributes:
        wrong: some look made a verdict between two methods that are equal, or the wrong way round.
        covered: every simultaneous interval of the last look covers.
        seeds: seeds that were taken, on average.
    """

    wrong: float
    covered: float
    seeds: float


def simulate_looks(cell: Cell, repeats: int = REPEATS, seed: int = 0) -> Looked:
    """Add seeds one by one, and stop where a sweep with `until: decided` does."""
    random = np.random.default_rng([seed, *map(ord, repr(cell))])
    levels = look_levels(FIRST, MOST, cell.methods)
    seen = np.array([_stopped(cell, draw(cell, random).outcomes, levels) for _ in range(repeats)])
    return Looked(*seen.mean(axis=0).tolist())


def _stopped(cell: Cell, outcomes: dict[str, np.ndarray], levels: Sequence[float]) -> tuple[bool, bool, int]:
    wrong = False
    for seeds, level in enumerate(levels, FIRST):
        part = {name: values[:seeds] for name, values in outcomes.items()}
        pairs = compare_methods(part, families=("best",), level=level).families["best"].pairs
        wrong |= any(_false(pair, cell) for pair in pairs)
        if all(pair.verdict in ("better", "worse") for pair in pairs):
            break
    return wrong, all(_covers(pair, cell, pair.adjusted_interval) for pair in pairs), seeds


def _false(pair: Pair, cell: Cell) -> bool:
    true = _truth(pair, cell)
    return pair.verdict in ("better", "worse") and (true == 0 or (true > 0) != (pair.verdict == "better"))


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
    corners += [
        Cell(outcome="logit", items=items, seeds=seeds, methods=k, shared=shared, tails=tails)
        for items in (260, 1319)
        for seeds, k in ((2, 12), (3, 4), (5, 4))
        for shared, tails in ((0.0, 5), (0.7, 0))
    ]
    return list(dict.fromkeys([*grid, *corners]))


def unlike_cells() -> list[Cell]:
    """Return the cells in which the first method has three times the others' seed deviation."""
    unlike = [
        Cell(seeds=seeds, methods=k, seed_points=points, odd=3.0, items=items)
        for seeds, k in ((2, 12), (3, 4), (3, 12), (5, 4), (5, 12), (10, 12))
        for items, points in ((260, 1.0), (1319, 1.0), (1319, 2.0))
    ]
    unlike += [
        Cell(outcome=outcome, seeds=seeds, methods=k, odd=3.0, shared=shared, tails=tails)
        for seeds, k in ((3, 4), (3, 12), (5, 4))
        for outcome, shared, tails in (("logit", 0.0, 5), ("logit", 0.7, 0), ("loss", 0.5, 0))
    ]
    return unlike


def look_cells() -> list[Cell]:
    """Return the cells of seeds that are added until it is decided."""
    settings = [(2, 1.0, 0.0), (4, 0.0, 0.0), (4, 1.0, 0.0), (4, 1.0, 3.0), (12, 2.0, 0.0)]
    return [Cell(seeds=MOST, methods=k, seed_points=points, gap=gap, base=False) for k, points, gap in settings]


def rows() -> list[Row]:
    """Every cell with its bars; looks, power and the bound at the end."""
    power = Cell(methods=4, seeds=3, seed_points=1.0, gap=3.0, base=False)
    asked = [*cells(), *unlike_cells(), power]
    with ProcessPoolExecutor(len(os.sched_getaffinity(0))) as pool:
        measured = dict(zip(asked, pool.map(_measured, asked), strict=True))
        looked = dict(zip(look_cells(), pool.map(_looked, look_cells()), strict=True))
    missing = sum(result is None for result in (*measured.values(), *looked.values()))
    shown = [row for cell in cells() if (one := measured[cell]) for row in _rows(cell, one, LEVEL)]
    shown += [row for cell in unlike_cells() if (one := measured[cell]) for row in _rows(cell, one, UNLIKE)]
    shown += [row for cell, seen in looked.items() if seen for row in _look_rows(cell, seen)]
    return [
        Row(name=f"cells not measured, of {len(measured) + len(looked)}", measured=float(missing), bar=0.0, unit=""),
        *shown,
        *(_power_rows(one) if (one := measured[power]) else ()),
        *_bounds(),
    ]


def _power_rows(measured: Measured) -> list[Row]:
    low = POWER - _error(POWER)
    return [
        Row(name="power: 3 points, 3 seeds, 4 methods, 1,319 items, seeds 1 point", measured=measured.first,
            bar=low, unit="", at_most=False, note=f"one comparison; at least {POWER} less +-{_error(POWER):.3f}"),
        Row(name="coverage of the same 3 points", measured=measured.coverage, bar=0.95 - _error(0.05), unit="",
            at_most=False),
    ]  # fmt: skip


def _measured(cell: Cell) -> Measured | None:
    return _stored(simulate, cell)


def _looked(cell: Cell) -> Looked | None:
    return _stored(simulate_looks, cell)


def _stored(measure: Callable[[Cell], _Result], cell: Cell) -> _Result | None:
    """Return a cell's result, from the folder of finished cells where it is there."""
    folder = os.environ.get("HARNESS_BENCH_CELLS")
    digest = hashlib.sha256(repr(cell).encode()).hexdigest()[:16]
    file = Path(folder) / f"{measure.__name__}-{digest}.pkl" if folder else None
    if file is not None and file.exists():
        return cast("_Result", pickle.loads(file.read_bytes()))
    if os.environ.get("HARNESS_BENCH") == "quick":
        return None
    result = measure(cell)
    if file is not None:
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(pickle.dumps(result))
    return result


def _look_rows(cell: Cell, looked: Looked) -> list[Row]:
    name = f"{str(cell).replace(f'{MOST} x', f'{FIRST} to {MOST} seeds x')}, looks"
    low = 0.95 - _error(0.05)
    return [
        Row(name=f"{name}: false families", measured=looked.wrong, bar=LEVEL + _error(LEVEL), unit="",
            note=f"{looked.seeds:.1f} seeds on average; +-{_error(LEVEL):.3f}"),
        Row(name=f"{name}: coverage after stopping", measured=looked.covered, bar=low, unit="", at_most=False),
    ]  # fmt: skip


def _bounds() -> Iterator[Row]:
    both, free = (most_power_beside_items(ItemSetting(), LEVEL, odd) for odd in (UNLIKE, 1.0))
    yield Row(
        name="bound: power, 3 points, 3 seeds, 4 methods, 1,319 items, seeds 1 point", measured=both, bar=None, unit="",
        note=f"most of any test with at most 7 % false where one method is unlike, seeds 1 or 2 points; {free:.3f} "
        "without that",
    )  # fmt: skip
    for seeds, methods in ((2, 12), (3, 4), (3, 12), (5, 4)):
        setting = Setting(seeds, methods)
        free, odd = most_power(setting, LEVEL, 1.0), most_power(setting, LEVEL, UNLIKE)
        yield Row(
            name=f"bound: {seeds} x {methods} methods, noise of the seeds alone", measured=odd, bar=None, unit="",
            note=f"most power of any test with at most 7 % false where one method is unlike; {free:.3f} without that; "
            f"a difference of {setting.noncentrality:g} standard errors",
        )  # fmt: skip


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
