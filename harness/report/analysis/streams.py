"""Sources of the noise between runs: variance components of methods whose seed streams were crossed."""

from __future__ import annotations

import math
from collections.abc import Iterator

from harness.records import seeds
from harness.report.analysis.claims import MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.document import Cell, Column, Missing, Number, Table, Text

TEXT = (
    "Random-effects analysis of variance of the score over the crossed streams: init is the new weights, order the "
    "order of the rows with dropout, data the training rows that were drawn; the rest is what they do together. 95 % "
    "generalized confidence intervals."
)


def tables(comparison: Comparison) -> list[Table]:
    """Return a table of components for each contest of the question in which a method's streams were crossed."""
    return [table for contest in comparison.contests if (table := _table(contest)).rows]


def _table(contest: MetricComparison) -> Table:
    columns = (
        Column("method", "Method", text=True),
        Column("source", "Source", text=True),
        Column("seeds", "Seeds", digits=0),
        Column("deviation", "Standard deviation", digits=contest.digits + 1),
        Column("share", "Share of the variance", "%", 100.0, 0),
    )
    rows = tuple(row for group in contest.groups for row in _of_group(group, contest))
    return Table(columns, rows, label="variance", title=f"Sources of variance on {contest.name}")


def _of_group(group: Group, contest: MetricComparison) -> Iterator[tuple[Cell, ...]]:
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
            Text(group.name, group.label),
            Text("the rest" if part.name == REST else part.name),
            Number(part.levels or len(scores)),
            Number(math.sqrt(part.variance), interval=(math.sqrt(part.low), math.sqrt(part.high))),
            Number(part.variance / total) if total else Missing("no variance"),
        )
