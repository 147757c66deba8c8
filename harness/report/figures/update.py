"""Figure of the shape of the updates: norm, effective rank, alignment and intruder dimensions, layer by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean
from typing import Any

from harness.records.record import UpdateRecord, WeightUpdate
from harness.report.data.groups import Group
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.style import PALE, amounts, line_of, method_of, name_of

LAYER = re.compile(r"\.(\d+)\.")
MOST_COLORED = 8
_PANELS = (
    ("relative_norm", "Relative norm"),
    ("effective_rank", "Effective rank"),
    ("alignment_left", "Alignment with top left vectors"),
    ("intruder_dimensions", "Intruder dimensions per matrix"),
)


def figure(groups: Sequence[Group]) -> Figure | None:
    """Return the figure; None where no update was measured."""
    measured = [group for group in groups if group.trained and any(layers(group, key) for key, _ in _PANELS)]
    if not measured:
        return None
    return Figure(
        "update",
        "Shape of the updates by layer",
        "Means over the matrices of a layer and over the seeds; the terms are defined in update.md.",
        lambda sheet: _draw(sheet, measured),
        lambda size: 4.2 if size.inches < 5 else 4.6,
    )


def matrices(update: UpdateRecord) -> dict[str, WeightUpdate]:
    """Return the changed matrices of which the shape was measured, by name."""
    return {name: measured for name, measured in update.weights.items() if measured.effective_rank is not None}


def layers(group: Group, key: str) -> dict[int, float]:
    """Return the mean of a measurement over the matrices and the seeds, by layer."""
    values: dict[int, list[float]] = {}
    for update in (row.update for row in group.rows if row.update is not None):
        for weight, shape in matrices(update).items():
            place, value = LAYER.search(weight), getattr(shape, key)
            if place and value is not None:
                values.setdefault(int(place.group(1)), []).append(value)
    return {layer: mean(values[layer]) for layer in sorted(values)}


def _draw(sheet: Sheet, groups: Sequence[Group]) -> None:
    handles: list[tuple[Any, str]] = []
    for axes, (key, title) in zip(sheet.axes(2, 2, sharex=True), _PANELS, strict=True):
        for place, group in enumerate(groups):
            values = layers(group, key)
            colored = place < MOST_COLORED
            style = {**line_of(method_of(group)), "markersize": 3} if colored else {"color": PALE, "linewidth": 0.7}
            [line] = axes.plot([*values], [*values.values()], **style)
            sheet.name(line, f"{group.name}: {title.lower()}")
            if colored and len(handles) < min(len(groups), MOST_COLORED):
                handles.append((line, name_of(group)))
        axes.set_ylim(bottom=0)
        amounts(axes.yaxis)
        axes.set_ylabel(sheet.wrapped(title, vertical=True))
    for axes in sheet.figure.axes[2:]:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Layer")
    sheet.legend(*zip(*handles, strict=True))
