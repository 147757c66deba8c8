"""Rows that others published, among the points of the frontiers: drawn apart, on no frontier and in no ranking."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from harness.records.record import ExternalRecord
from harness.records.untrusted import printable
from harness.report.analysis.axes import Cost, Quality
from harness.report.figures.others import cost_of, score_on

COLOR = "#888888"
CROSS = "M-1,-1L1,1M-1,1L1,-1"
SHOWN = "show_others"  # the parameter that hides external rows: many of them stretch the axes


def points(rows: Sequence[ExternalRecord], axes: Mapping[str, Cost | Quality]) -> list[dict[str, Any]]:
    """Return the points of the rows that have a score and a cost among the axes, labeled with their origin."""
    found = []
    for row in rows:
        point: dict[str, Any] = {}
        for key, axis in axes.items():
            if isinstance(axis, Cost):
                point[key] = cost_of(row, axis.key)
            elif (score := score_on(row, axis.task)) is not None:
                point[key] = score.value
                if score.stderr is not None:
                    point[f"{key}_error"] = score.stderr
        kinds = {type(axes[key]) for key, value in point.items() if key in axes and value is not None}
        if len(kinds) == 2:
            label = printable(f"{row.name} ({row.origin})")
            found.append({"label": label, "seeds": row.seeds, "external": True, **point})
    return found


def choice() -> Any:
    """Return the check box that shows or hides the external rows."""
    import altair

    return altair.param(name=SHOWN, bind=altair.binding_checkbox(name="Rows of others "), value=True)


def apart(theirs: Any, ours: Any) -> Any:
    """Return an encoding with one value for external rows and another for our own."""
    import altair

    return altair.condition("datum.external", altair.value(theirs), ours)
