"""The tables of a comparison as raw numbers, for whoever plots or sorts them: a line per method, and one per pair."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.analysis.axes import COSTS, qualities
from harness.report.analysis.claims import claims, contests, main_contests
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded

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
            known = (quality.of(group), quality.gain(group, groups)) if not group.random_weights else (None, None)
            for found in known:
                cells += [found.value if found else None, found.standard_error if found else None]
        lines.append((*cells, *(cost.of(group) for cost in COSTS)))
    return Numbers((*columns, *(cost.key for cost in COSTS)), tuple(lines))


def pairs(loaded: Loaded) -> Numbers:
    """Every pair that was compared on the answer's task and on the validation loss, with its verdict."""
    primary = loaded.primary
    asked = {
        one.measure: one for one in (*main_contests(loaded.groups, primary), *contests(loaded.groups, "validation"))
    }
    lines = [
        (one.title, pair.a.label, pair.b.label, pair.difference.value, *pair.interval, pair.p, pair.p_equivalence,
         pair.p_sign_flip, pair.verdict)
        for one in asked.values()
        for pair in claims(one, loaded.margin).pairs
    ]  # fmt: skip
    columns = ("task", "method", "against", "difference", "low", "high", "p", "p_equivalent", "p_sign_flip", "verdict")
    return Numbers(columns, tuple(lines))
