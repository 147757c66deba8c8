"""Quality against each cost, with the frontier: the methods that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.record import ExternalRecord
from harness.report.analysis.axes import COSTS, Cost, Quality, qualities
from harness.report.data.groups import Group, Measure
from harness.report.figures.others import draw_external, external_caption, name_external
from harness.report.figures.points import Place, draw_base, draw_points, measured, name_points
from harness.report.figures.style import (
    MOST_NAMED,
    Drawn,
    amounts,
    drawable,
    drawing,
    legend_below,
    legend_rows,
    logarithmic,
    room,
)

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

STEM = "pareto"
DECADE = 10  # costs within this ratio are easier to read on a linear axis
Point = tuple[float, float]


def make(
    groups: Sequence[Group],
    folder: Path,
    external: Sequence[ExternalRecord] = (),
    asked_for: Measure | None = None,
) -> Drawn | None:
    """Draw it where two methods or more have a score in one setting and a cost; with the task's rows of others.

    What answers the question is drawn, where it can be.
    """
    quality = next((one for one in qualities(groups, first=asked_for) if _count(one, groups) > 1), None)
    trained = [group for group in groups if group.trained and quality and quality.of(group)]
    costs = [cost for cost in COSTS if len({cost.of(group) for group in trained} - {None}) > 1]
    if quality is None or not costs:
        return None
    rows = -(-len(costs) // 2)
    height = 2.5 * rows + 0.35 + 0.18 * legend_rows(len(trained))
    with drawing(folder, STEM, height) as figure:
        panels = figure.subplots(rows, 2, squeeze=False).ravel()
        room(figure, len(trained), height)
        for axes, cost in zip(panels, costs, strict=False):
            draw_external(axes, external, quality.task, cost.key)  # first: limits are final when points are named
            _panel(axes, trained, groups, quality, cost)
            name_external(axes, external, quality.task, cost.key)
        for axes in panels[len(costs) :]:
            axes.remove()
        if len(trained) > MOST_NAMED:
            legend_below(figure, panels[0], len(trained))
    better = "higher" if quality.higher_is_better else "lower"
    return Drawn(
        STEM,
        f"{quality.title} against each cost",
        f"{quality.title} ({better} is better) against what it costs (further left is better). The grey steps pass "
        "through the methods that no other beats in both; bars are one standard error; the dashed line is base."
        + external_caption(external, [quality.task]),
    )


def frontier(points: Sequence[Point], higher_is_better: bool) -> list[Point]:
    """The points (cost, quality) that no other equals or beats in both, by rising cost."""
    sign = 1.0 if higher_is_better else -1.0
    kept: list[Point] = []
    for cost, quality in sorted(points, key=lambda point: (point[0], -sign * point[1])):
        if not kept or sign * quality > sign * kept[-1][1]:
            kept.append((cost, quality))
    return kept


def _count(quality: Quality, groups: Sequence[Group]) -> int:
    return sum(group.trained and quality.of(group) is not None for group in groups)


def _panel(axes: Any, trained: Sequence[Group], groups: Sequence[Group], quality: Quality, cost: Cost) -> None:
    places = [_place(quality.of(group), cost.of(group)) for group in trained]
    draw_points(axes, trained, places)
    low, high = axes.dataLim.intervalx
    if cost.logarithmic and 0 < low * DECADE < high:
        logarithmic(axes.xaxis)
    else:
        amounts(axes.xaxis, high)
    axes.margins(0.18)
    best = frontier([(place[0][0], place[1][0]) for place in places if place], quality.higher_is_better)
    steps = _steps(best, axes.get_xlim()[1])
    axes.plot(*zip(*steps, strict=True), color="#999999", linewidth=1, zorder=1, scalex=False)
    base = [found.value for group in groups if group.ok and group.first.is_base and (found := quality.of(group))]
    draw_base(axes, base)
    axes.set_xlabel(cost.title)
    axes.set_title(drawable(quality.title, 60))
    name_points(axes, trained, places, base, steps)


def _steps(best: Sequence[Point], edge: float) -> list[Point]:
    """The corners of the frontier's line: what each method offers until a better one begins, the last to the edge."""
    ends = [cost for cost, _ in best[1:]] + [edge]
    return [
        corner for (cost, quality), end in zip(best, ends, strict=True) for corner in ((cost, quality), (end, quality))
    ]


def _place(found: SeedEstimate | None, price: float | None) -> Place | None:
    return None if found is None or price is None else ((price, None), measured(found))
