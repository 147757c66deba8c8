"""Quality against each cost, with the frontier: the methods that no other beats in both."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.report.axes import COSTS, Cost, Quality, qualities
from harness.report.figures.placing import place_labels
from harness.report.figures.style import (
    BASE_COLOUR,
    Drawn,
    drawable,
    drawing,
    legend_below,
    legend_rows,
    logarithmic,
    names_of,
    point_names,
    point_of,
    room,
)
from harness.report.groups import Group

STEM = "pareto"
Point = tuple[float, float]


def make(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw it where two methods or more have a score in one setting and a cost."""
    quality = next((one for one in qualities(groups) if _count(one, groups) > 1), None)
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
            _panel(axes, trained, groups, quality, cost)
        for axes in panels[len(costs) :]:
            axes.remove()
        if len(trained) > len(point_names(trained, names_of(trained))) or len(trained) > 8:
            legend_below(figure, panels[0], len(trained))
    better = "higher" if quality.higher_is_better else "lower"
    return Drawn(
        STEM,
        f"{quality.title} against {', '.join(cost.title.partition(',')[0].lower() for cost in costs)}",
        f"{quality.title} ({better} is better) against what it costs (further left is better). The grey steps pass "
        "through the methods that no other beats in both; bars are one standard error; the dashed line is base.",
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
    names = names_of(trained)
    beside = point_names(trained, names) or [""] * len(trained)
    points, labels = [], []
    for index, (group, name, label) in enumerate(zip(trained, names, beside, strict=True)):
        found, price = quality.of(group), cost.of(group)
        style = point_of(index)
        axes.plot([], [], linestyle="none", label=name, **style)
        if found is None or price is None:
            continue
        axes.errorbar(price, found.value, yerr=found.standard_error, elinewidth=0.7, capsize=2, **style)
        points.append((price, found.value))
        labels.append(label)
    if cost.logarithmic:
        logarithmic(axes.xaxis)
    axes.margins(0.18)
    best = frontier(points, quality.higher_is_better)
    axes.plot(*zip(*best, strict=True), color="#999999", linewidth=1, zorder=1, drawstyle="steps-post")
    base = [found.value for group in groups if group.ok and group.first.is_base and (found := quality.of(group))]
    for value in dict.fromkeys(base):
        axes.axhline(value, color=BASE_COLOUR, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_xlabel(cost.title)
    axes.set_title(drawable(quality.title, 60))
    if any(labels):
        place_labels(axes, points, labels, list(dict.fromkeys(base)))
