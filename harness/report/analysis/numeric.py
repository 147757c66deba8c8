"""The tables of a comparison as raw numbers, to be plotted or sorted: a line per method, and a line per pair."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.analysis.axes import COSTS, qualities
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group

Cell = str | int | float | None


@dataclass(frozen=True)
class Numbers:
    """Columns and lines; an unknown value is None."""

    columns: tuple[str, ...]
    lines: tuple[tuple[Cell, ...], ...]


def methods(groups: Sequence[Group]) -> Numbers:
    """Means over the seeds: each headline metric with its standard error and its gain over base, then each cost."""
    asked = [one for one in qualities(groups) if any(one.of(group) for group in groups)]
    parts = ("", " standard error", " vs base", " vs base standard error")
    columns = ["method", "status", "seeds", *(f"{one.title}{part}" for one in asked for part in parts)]
    lines = []
    for group in groups:
        cells: list[Cell] = [group.label, group.first.status or "missing", len(group.rows) if group.ok else 0]
        for quality in asked:
            known = (quality.of(group), quality.gain(group)) if not group.random_weights else (None, None)
            for found in known:
                cells += [found.value if found else None, found.standard_error if found else None]
        lines.append((*cells, *(cost.of(group) for cost in COSTS)))
    return Numbers((*columns, *(cost.key for cost in COSTS)), tuple(lines))


def pairs(comparison: Comparison) -> Numbers:
    """Return every comparison on the answer's task, family by family, with its simultaneous interval and verdict."""
    columns = (
        "task",
        "family",
        "method",
        "against",
        "difference",
        "low",
        "high",
        "p",
        "p_adjusted",
        "p_equivalent",
        "verdict",
        "scope",
        "seeds",
        "why",
    )
    lines: list[tuple[Cell, ...]] = []
    for found in comparison.claims:
        contest = found.contest
        families = (("baseline", found.against_base), ("best", found.against_best), ("all", found.pairs))
        for family, members in families:
            for pair in members:
                one = pair.result
                ends = [end if math.isfinite(end) else None for end in one.adjusted_interval]
                numbers = (one.difference, *ends, one.p, one.adjusted_p, one.equivalence_p)
                words = (one.verdict, one.scope, one.seeds, one.why)
                lines.append((contest.title, family, pair.a.label, pair.b.label, *numbers, *words))
    return Numbers(columns, tuple(lines))
