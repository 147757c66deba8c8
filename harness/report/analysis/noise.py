"""The noise of a comparison: an A/A test of its verdicts, and the sources of the variance between seeds.

In an A/A test seeds of one method are named as two methods, in every way, and compared as methods are. Nothing differs,
so that every verdict is false. Each side has half of the seeds, rounded down: the test is one of smaller comparisons
than those of the report, made in the same way. The other methods of the folder take part, since comparisons borrow
their seed variance. Ways to divide the same seeds depend on each other: the interval of the rate counts a method on a
task as one observation. Variance components are those of methods whose seed streams were crossed.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from typing import TYPE_CHECKING

from harness.records import seeds
from harness.report.analysis.claims import LEVEL, MetricComparison, contests
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import METHOD, Aligned, Group, aligned
from harness.report.display import counted
from harness.report.document import Column, Number, Table, Value

if TYPE_CHECKING:
    from harness.stats import Floats
    from harness.stats.across import Interval


VARIANCE_TEXT = (
    "Random-effects analysis of variance of the score over the crossed streams: init is the new weights, order the "
    "order of the rows with dropout, data the training rows that were drawn; the rest is what they do together. 95 % "
    "generalized confidence intervals."
)
FEWEST = 5  # seeds of a method
MOST_WAYS = 200  # of dividing the seeds of one method on one task; above, every n-th
_FIRST, _SECOND = "first half", "second half"


@dataclass(frozen=True)
class Tally:
    """One method on one task: verdicts over all ways to divide its seeds."""

    method: str
    title: str
    seeds: int
    ways: int
    false: int  # better or worse
    silent: int  # no verdict, such as two seeds a side with no other method to borrow the variance from


def aa_test(comparison: Comparison) -> list[Tally]:
    """Return a tally for each method with five or more seeds on each task that it was asked."""
    compared = [*comparison.targets, *contests(comparison.groups, "test")]
    return [tally for contest in compared for tally in _aa_of_contest(contest)]


def aa_rate(tallies: Sequence[Tally]) -> Interval | None:
    """Return the mean rate of false verdicts with a 95 % interval, a method on a task counted once; None without one.

    The ways to divide the same seeds depend on each other, so that the interval counts tallies and not ways.
    """
    from harness.stats.across import Interval
    from harness.stats.proportion import wilson_of_rate

    judged = [tally for tally in tallies if tally.ways > tally.silent]
    if not judged:
        return None
    rate = sum(tally.false / (tally.ways - tally.silent) for tally in judged) / len(judged)
    return Interval(rate, *wilson_of_rate(rate, len(judged)))


def aa_line(tallies: Sequence[Tally]) -> str:
    """Return the result in a sentence; "" without a method that has enough seeds."""
    if not tallies:
        return ""
    ways, silent = sum(tally.ways for tally in tallies), sum(tally.silent for tally in tallies)
    on = " and ".join(
        counted(len({*names}), noun)
        for names, noun in (
            ((tally.method for tally in tallies), "method"),
            ((tally.title for tally in tallies), "task"),
        )
    )
    start = f"A/A test: seeds of one method named as two, in {ways:,} ways on {on}"
    rate = aa_rate(tallies)
    if rate is None:
        return f"{start}: no way made a verdict, since the seeds are too few for one."
    false = sum(tally.false for tally in tallies)
    verdicts = f"{false:,} false verdicts{f', {silent:,} without one' if silent else ''}"
    return (
        f"{start}: {verdicts}: {rate.value:.1%} at a level of {LEVEL:.0%} "
        f"(95 % interval {rate.low:.1%} to {rate.high:.1%}, a method on a task counted once)."
    )


def _aa_of_contest(contest: MetricComparison) -> Iterator[Tally]:
    sides = aligned(contest.members, contest.measure)
    if sides is None:
        return
    for group in contest.groups:
        values = sides.values.get(group.label)
        if values is not None and len(present := _known(values)) >= FEWEST:
            yield _tally(group.label, present, sides, contest)


def _known(values: Floats) -> list[int]:
    """Return the indices of the seeds that have a result."""
    import numpy as np

    return [int(place) for place in np.flatnonzero(~np.isnan(values[:, 0]))]


def _tally(method: str, seeds: Sequence[int], sides: Aligned, contest: MetricComparison) -> Tally:
    half = len(seeds) // 2
    lenders = {label: values for label, values in sides.values.items() if label not in (method, *sides.untouched)}
    every = list(_divided(seeds, half))
    ways = every[:: max(1, -(-len(every) // MOST_WAYS))]
    false = silent = 0
    for first, second in ways:
        outcomes = {_FIRST: sides.values[method][list(first)], _SECOND: sides.values[method][list(second)]}
        for label, values in lenders.items():
            if {*first} <= {*_known(values)}:  # paired with the first half, as methods are with each other
                outcomes[label] = values[list(first)]
        settings = {"baseline": _SECOND, "families": ("baseline",), "level": LEVEL, "deterministic": ()}
        compared = sides.compared(outcomes, higher_is_better=contest.higher_is_better, **settings)
        pair = compared.pair(_FIRST, _SECOND, "baseline")
        silent += bool(pair.why)
        false += not pair.why and pair.p < LEVEL  # one comparison, at its own level
    return Tally(method, contest.title, len(seeds), len(ways), false, silent)


def _divided(seeds: Sequence[int], half: int) -> Iterator[tuple[tuple[int, ...], tuple[int, ...]]]:
    """Every way to take two groups of `half` seeds, neither of them named first."""
    for first in combinations(seeds, half):
        others = [seed for seed in seeds if seed not in first]
        for second in combinations(others, half):
            if first < second:
                yield first, second


def variance_tables(comparison: Comparison) -> list[Table]:
    """Return a table of components for each contest of the question in which a method's streams were crossed."""
    tables = []
    for contest in comparison.contests:
        digits = 2 if contest.gains.unit else contest.digits + 1
        columns = (
            METHOD,
            Column("source", "Source", text=True),
            Column("seeds", "Seeds", digits=0),
            replace(contest.gains, key="deviation", title="Standard deviation", digits=digits),
            Column("share", "Share of the variance", "%", 100.0, 0),
        )
        rows = (row for group in contest.ranked for row in _components(group, contest))
        title = f"Sources of variance on {contest.name}"
        tables.append(Table.of(columns, rows, "no variance", label="variance", title=title))
    return [table for table in tables if table.rows]


def _components(group: Group, contest: MetricComparison) -> Iterator[tuple[Value, ...]]:
    from harness.stats.components import REST, components

    scored = group.evaluations[contest.measure.eval_id]
    scores = {
        tuple(seeds.streams(row.seed)): score.record.metrics[contest.measure.metric].value
        for row, score in zip(group.rows, scored, strict=True)
    }
    try:
        parts = components(scores, seeds.NAMES)
    except ValueError:  # plain seeds, or not every combination was run
        return
    total = sum(part.variance for part in parts)
    for part in parts:
        yield (
            group.cell,
            "the rest" if part.name == REST else part.name,
            part.levels or len(scores),
            Number(math.sqrt(part.variance), interval=(math.sqrt(part.low), math.sqrt(part.high))),
            part.variance / total if total else None,
        )
