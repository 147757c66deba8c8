"""Every pair of methods in one table: the difference above the diagonal, its adjusted p-value below."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from harness.report.analysis.claims import Claims, Pair
from harness.report.analysis.verdicts import conditions
from harness.report.data.groups import Group
from harness.report.document import P_FLOOR, Cell, Column, Missing, Note, Number, Table, Text


def pairs(result: Claims, label: str) -> Table | None:
    """Return the matrix of the pairs, best method first; None where fewer than two methods were compared.

    A number in row a and column b is the score of a minus that of b.
    """
    compared = result.comparison
    if compared is None or "all" not in compared.families:
        return None
    members = [group for group in (*result.contest.ranked, *_base(result)) if group not in result.unpaired]
    if len(members) < 2:
        return None
    by_pair = {frozenset((pair.a.label, pair.b.label)): pair for pair in result.pairs}
    gains = result.contest.gains
    columns = [Column("method", "Method", text=True)]
    columns += [Column(group.label, f"({place})", scale=gains.scale) for place, group in enumerate(members, 1)]
    rows = tuple(
        (
            Text(f"({i}) {a.name}", a.label),
            *(
                _cell(by_pair.get(frozenset((a.label, b.label))), a, i - j, bool(gains.unit))
                for j, b in enumerate(members, 1)
            ),
        )
        for i, a in enumerate(members, 1)
    )
    return Table(
        tuple(columns),
        rows,
        notes=tuple(_notes(result)),
        caption=_caption(result),
        label=label,
        title=f"Pairs on {result.contest.name}",
    )


def _base(result: Claims) -> list[Group]:
    return [result.contest.base] if result.contest.base else []


def _cell(pair: Pair | None, row: Group, below: int, percent: bool) -> Cell:
    """Return the difference above the diagonal and the p-value below it."""
    if below == 0:
        return Missing("the method itself", "")
    if pair is None or not math.isfinite(pair.result.adjusted_interval[0]):
        return Missing(pair.result.why if pair else "not compared")
    if below > 0:
        p = pair.result.adjusted_p
        text = f"<{P_FLOOR}".replace("0.", ".") if p < P_FLOOR else f"{p:.3f}".replace("0.", ".", 1)
        return Text(f"({text})" if pair.result.verdict == "no verdict" else text, f"{p:.6g}")
    sign = 1.0 if pair.a is row else -1.0
    difference = Number(sign * pair.result.difference, digits=1 if percent else 3, signed=True)
    return replace(difference, emphasis="best") if pair.significant else difference


def _notes(result: Claims) -> Iterator[Note]:
    yield Note("p-values are adjusted for all pairs; bold differences are significant at that level.")
    if any(pair.result.verdict == "no verdict" for pair in result.pairs):
        yield Note("p-values in parentheses: too few seeds for a verdict about the methods.")


def _caption(result: Claims) -> str:
    unit = "percentage points" if result.contest.gains.unit else "the unit of the metric"
    better = "higher" if result.contest.higher_is_better else "lower"
    return (
        f"Pairs of methods on {result.contest.name}. Above the diagonal: score of the row minus that of the column, in "
        f"{unit} ({better} scores are better); below it: p-value of the same pair. {conditions(result, 'all')}"
    )
