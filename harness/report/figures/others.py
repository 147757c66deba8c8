"""Rows that others published, in the plots of our own: drawn apart, on no frontier and in no ranking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from harness.records.record import ExternalRecord, Metric
from harness.report.display import MEBIBYTE, MEGABYTE
from harness.report.figures.style import drawable

_COLOR = "#888888"
_MOST_NAMED = 12  # rows with names; above, only the table has the names
_COSTS: dict[str, Callable[[ExternalRecord], float | None]] = {
    "peak_memory_mebibytes": lambda one: None if one.peak_memory_bytes is None else one.peak_memory_bytes / MEBIBYTE,
    "train_seconds": lambda one: one.train_seconds,
    "trainable_parameters": lambda one: one.trainable_parameters,
    "saved_megabytes": lambda one: None if one.saved_bytes is None else one.saved_bytes / MEGABYTE,
}


def draw_external(axes: Any, rows: Sequence[ExternalRecord], task: str, cost: str) -> None:
    """Draw a gray cross for every row that has a score on the task and the cost."""
    places = _places(rows, task, cost)
    if places:
        axes.plot([x for x, _, _ in places], [y for _, y, _ in places], "x", color=_COLOR, markersize=4, zorder=0)


def name_external(axes: Any, rows: Sequence[ExternalRecord], task: str, cost: str) -> None:
    """Write the names below or above the crosses where there is room. The limits of the axes must be final."""
    places = _places(rows, task, cost)
    taken = [text.get_window_extent() for text in axes.texts]
    for x, y, name in sorted(places, key=lambda place: place[1]) if len(places) <= _MOST_NAMED else ():
        for offset, level in ((-2, "top"), (2, "bottom")):
            text = axes.annotate(
                drawable(name, 24), (x, y), xytext=(3, offset), textcoords="offset points", va=level, fontsize=5,
                color=_COLOR,
            )  # fmt: skip
            box = text.get_window_extent()
            if not any(box.overlaps(other) for other in taken):
                taken.append(box)
                break
            text.remove()


def _places(rows: Sequence[ExternalRecord], task: str, cost: str) -> list[tuple[float, float, str]]:
    known = [(cost_of(one, cost), score_on(one, task), one.name) for one in rows]
    return [(price, score.value, name) for price, score, name in known if price is not None and score is not None]


def external_caption(rows: Sequence[ExternalRecord], tasks: Sequence[str]) -> str:
    """Return the caption's sentence on external rows; "" where none has a score on one of the tasks."""
    origins = list(dict.fromkeys(one.origin for one in rows if any(score_on(one, task) for task in tasks)))
    if not origins:
        return ""
    return f" Grey crosses: {', '.join(origins)}, one seed on another machine, on no frontier and never ranked."


def score_on(row: ExternalRecord, task: str) -> Metric | None:
    """The row's accuracy on the task; None where it has none."""
    return next((metric for name, metric in row.scores.items() if name.partition("/")[0] == task), None)


def cost_of(row: ExternalRecord, cost: str) -> float | None:
    """Return the row's cost of that key; None where it was not published."""
    of = _COSTS.get(cost)
    return of(row) if of else None
