"""Figure of learning against forgetting: the change on a target task and on one that must not be lost."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.report.analysis.axes import Quality, qualities
from harness.report.data.groups import Group, Measure
from harness.report.figures.points import draw_base, draw_points, measured, name_points
from harness.report.figures.style import (
    BASE_COLOR,
    MOST_NAMED,
    Drawn,
    drawable,
    drawing,
    legend_below,
    legend_rows,
    room,
)

STEM = "forgetting"


def make(groups: Sequence[Group], folder: Path, asked_for: Measure | None = None) -> Drawn | None:
    """Draw it where a method has paired differences to the untouched model on a task of both kinds.

    The column that answers the question measures learning, where it is a target task.
    """
    learnt, kept = (_first(groups, role, asked_for) for role in ("target", "retention"))
    shown = [g for g in groups if learnt and kept and learnt.gain(g) and kept.gain(g)]
    if learnt is None or kept is None or not shown:
        return None
    named = len(shown) if len(shown) > MOST_NAMED else 0
    places = [(measured(x), measured(y)) for g in shown if (x := learnt.gain(g)) and (y := kept.gain(g))]
    height = 3.4 + 0.18 * legend_rows(named)
    with drawing(folder, STEM, height) as figure:
        axes = figure.subplots()
        room(figure, named, height)
        draw_points(axes, shown, places)
        axes.margins(0.15)
        draw_base(axes, [0])
        axes.axvline(0, color=BASE_COLOR, linestyle=(0, (4, 3)), linewidth=1)
        axes.set_xlabel(f"Learnt: {drawable(learnt.title, 50)}, change from base")
        axes.set_ylabel("Change from base")
        axes.set_title(f"Kept: {drawable(kept.title, 50)}")
        name_points(axes, shown, places)
        if named:
            legend_below(figure, axes, named)
    return Drawn(
        STEM,
        f"Change on {kept.title} against the change on {learnt.title}",
        f"Paired differences to base with one standard error: {learnt.title} was trained for, {kept.title} was to be "
        "kept. Further right is more learnt, below the dashed line is forgotten.",
    )


def _first(groups: Sequence[Group], role: str, asked_for: Measure | None) -> Quality | None:
    found = (one for one in qualities(groups, (role,), asked_for) if one.higher_is_better)
    return next((one for one in found if any(one.gain(group) for group in groups)), None)
