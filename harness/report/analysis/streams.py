"""Sources of the noise between runs: variance components of methods whose seed streams were crossed."""

from __future__ import annotations

import math
from collections.abc import Sequence

from harness.records import seeds
from harness.report.analysis.claims import MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.display import decimals, span
from harness.report.document import Table, text_table

HEADER = ("Method", "Source", "Seeds", "Standard deviation", "Interval", "Share of the variance")
TEXT = (
    "Random-effects analysis of variance of the score over the crossed streams: init is the new weights, order the "
    "order of the rows with dropout, data the training rows that were drawn; the rest is what they do together. 95 % "
    "generalized confidence intervals."
)


def tables(comparison: Comparison) -> list[Table]:
    """Return a table of components for each contest of the question in which a method's streams were crossed."""
    found = [(contest, _lines(contest)) for contest in comparison.contests]
    return [
        text_table(f"Sources of variance on {contest.name}", HEADER, lines, ("Source",))
        for contest, lines in found
        if lines
    ]


def _lines(contest: MetricComparison) -> tuple[tuple[str, ...], ...]:
    return tuple(line for group in contest.groups for line in _of_group(group, contest))


def _of_group(group: Group, contest: MetricComparison) -> Sequence[tuple[str, ...]]:
    from harness.stats.components import REST, components

    scored = group.evaluations[contest.measure.eval_id]
    scores = {
        tuple(seeds.streams(row.seed)): one.record.metrics[contest.measure.metric].value
        for row, one in zip(group.rows, scored, strict=True)
    }
    try:
        parts = components(scores, seeds.NAMES)
    except ValueError:  # plain seeds, or not every combination was run
        return ()
    total = sum(part.variance for part in parts)
    return [
        (
            group.name,
            "the rest" if part.name == REST else part.name,
            str(part.levels) if part.levels else str(len(scores)),
            decimals(math.sqrt(part.variance), contest.digits + 1),
            span((math.sqrt(part.low), math.sqrt(part.high)), contest.digits + 1),
            f"{part.variance / total:.0%}" if total else "-",
        )
        for part in parts
    ]
