"""Figures of points: quality against each cost with its Pareto front, and learning against forgetting."""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Any

from harness.records.record import ExternalRecord
from harness.report.analysis.axes import COSTS, Cost, Quality, qualities
from harness.report.analysis.external import score_on
from harness.report.data.groups import Group, Measure
from harness.report.display import capital, lowered
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.labels import NEAR, RINGS, Placer, Point
from harness.report.figures.style import (
    BASE_COLOR,
    Scale,
    amounts,
    base_line,
    compact,
    drawable,
    logarithmic,
    method_of,
    names_of,
    point_of,
    scale_of,
    spans_decades,
)

MOST_NAMED = 12  # points; of more, only those on the front and at the ends are named
EXTERNAL = "#888888"
DOMINATED_RINGS = 5  # of places for the name of a gray point; it has none where they are taken
POINT, PALE_POINT, STEP = 5.5, 4.0, 4.5  # sizes of marks, and how much larger each one below another is drawn
MOST_STEPS = 4
COINCIDES = 0.01  # of an axis: marks that are no further apart hide one another
HOLLOW = " Hollow: too few seeds for a verdict about the method."
LARGER = " A larger mark lies below another one at the same place."
ALIKE = 0.02  # costs of one ratio up to this share are one figure: device hours and their price


@dataclass(frozen=True)
class Mark:
    """A group as a point, with the standard errors of both numbers; None: unknown.

    `hollow`: there is no verdict about the method.
    """

    group: Group
    x: float
    y: float
    x_error: float | None = None
    y_error: float | None = None
    hollow: bool = False

    @property
    def point(self) -> Point:
        """Return the place of the point."""
        return self.x, self.y

    @property
    def bars(self) -> list[tuple[Point, Point]]:
        """Return the ends of the error bars that it has."""
        x, y, a, b = self.x, self.y, self.x_error, self.y_error
        return [*([((x - a, y), (x + a, y))] if a else []), *([((x, y - b), (x, y + b))] if b else [])]


def tradeoffs(
    groups: Sequence[Group],
    measure: Measure | None,
    external: Sequence[ExternalRecord] = (),
    hollow: Collection[str] = (),
) -> list[Figure]:
    """Return a figure of the quality against each cost that differs between methods; the first is the main one.

    `hollow` has the labels of the methods without a verdict.
    """
    for quality in qualities(groups, first=measure):
        scored = [group for group in groups if group.trained and quality.of(group)]
        if len(scored) > 1:
            costs = enumerate(_distinct(scored))
            return [_tradeoff(quality, cost, groups, external, place == 0, hollow) for place, cost in costs]
    return []


def learning_and_forgetting(
    groups: Sequence[Group], measure: Measure | None, hollow: Collection[str] = ()
) -> Figure | None:
    """Return the figure of the change on a retention task against that on a target task; None without both."""
    target, retention = (_first(groups, role, measure) for role in ("target", "retention"))
    if target is None or retention is None:
        return None
    x_scale, y_scale = (scale_of(axis) for axis in (target, retention))
    marks = [
        Mark(
            group,
            x_scale.factor * x.value,
            y_scale.factor * y.value,
            x_scale.error(x.standard_error),
            y_scale.error(y.standard_error),
            group.label in hollow,
        )
        for group in groups
        if (x := target.gain(group)) and (y := retention.gain(group))
    ]
    if not marks:
        return None
    named = " Colored and named: methods that no other beats in both." if len(marks) > MOST_NAMED else ""
    words = [f"Change in {scale.quantity}" for scale in (x_scale, y_scale)]
    return Figure(
        "forgetting",
        f"{words[1]} against {words[0][0].lower()}{words[0][1:]}",
        f"x: gain on the target task; y: change on the retention task (below 0: forgetting), both against base, with "
        f"one standard error.{named}{_remarks(marks, _spots(marks))}",
        lambda sheet: _draw_changes(sheet, marks, x_scale, y_scale),
        lambda size: 2.6 if size.inches < 5 else 3.6,
    )


def _tradeoff(
    quality: Quality, cost: Cost, groups: Sequence[Group], external: Sequence[ExternalRecord], main: bool,
    hollow: Collection[str],
) -> Figure:  # fmt: skip
    scale, unit = scale_of(quality), cost.column.scale
    title = f"{cost.column.title} ({cost.column.unit})" if cost.column.unit else cost.column.title
    marks = [
        Mark(
            group,
            unit * price,
            scale.factor * estimate.value,
            y_error=scale.error(estimate.standard_error),
            hollow=group.label in hollow,
        )
        for group in groups
        if group.trained and (price := cost.of(group)) is not None and (estimate := quality.of(group))
    ]
    base = next((s.value * scale.factor for g in groups if g.ok and g.first.is_base and (s := quality.of(g))), None)
    theirs = [
        (row.name, unit * price, scale.factor * score.value)
        for row in external
        if (price := getattr(row, cost.key, None)) is not None and (score := score_on(row, quality.task))
    ]
    better = "higher" if scale.higher_is_better else "lower"
    origins = ", ".join(dict.fromkeys(row.origin for row in external)) if theirs else ""
    return Figure(
        f"tradeoff_{cost.key}",
        f"{capital(scale.quantity)} against {lowered(title.partition(' (')[0])}",
        f"Colored, and marked by the gray step line: the Pareto front ({better} and further left is better); gray: "
        "methods that another one equals or beats in both. Bars: one standard error; dashed: base."
        + _remarks(marks, _spots(marks, spans_decades([mark.x for mark in marks])))
        + (f" Gray crosses: {origins}, one seed on another machine, never ranked." if theirs else ""),
        lambda sheet: _draw_tradeoff(sheet, marks, scale, title, base, theirs),
        lambda size: 2.5 if size.inches < 5 else 3.4,
        main,
    )


def _draw_tradeoff(
    sheet: Sheet, marks: Sequence[Mark], scale: Scale, title: str, base: float | None,
    theirs: Sequence[tuple[str, float, float]],
) -> None:  # fmt: skip
    from harness.stats import on_frontier

    [axes] = sheet.axes()
    sign = 1 if scale.higher_is_better else -1
    front = on_frontier([sign * mark.y for mark in marks], [mark.x for mark in marks])
    for name, x, y in theirs:
        [cross] = axes.plot(x, y, "x", color=EXTERNAL, markersize=3.5, zorder=1)
        sheet.name(cross, f"{name}: {y:.4g}, {compact(x)} (published by others)")
    best = sorted((mark.point for mark, on in zip(marks, front, strict=True) if on), key=lambda point: point[0])
    is_log = spans_decades([mark.x for mark in marks])
    spots = _spots(marks, is_log)
    sizes = _sizes(spots, [not on for on in front])
    for mark, on, size in zip(marks, front, sizes, strict=True):
        _draw_mark(sheet, axes, mark, f"{scale.text(mark.y)}, {title}: {compact(mark.x)}", not on, size)
    if base is not None:
        base_line(axes.axhline, base)
    if is_log:
        logarithmic(axes.xaxis)
    axes.margins(0.12)
    axes.autoscale_view()
    amounts(axes.yaxis)
    if not is_log:
        amounts(axes.xaxis)
    edge = axes.get_xlim()[1]
    corners = [(x, y) for (x, y), end in zip(best, [*(x for x, _ in best[1:]), edge], strict=True)
               for x in (x, end)]  # fmt: skip
    axes.plot(*zip(*corners, strict=True), color="#999999", linewidth=0.8, zorder=1, scalex=False, scaley=False)
    axes.set_xlabel(drawable(title, 44))
    axes.set_ylabel(sheet.wrapped(scale.title, vertical=True))

    def label() -> None:
        placer = Placer(axes)
        placer.keep_line(corners)
        _keep(placer, marks, sizes)
        placer.keep_points([(x, y) for _, x, y in theirs], 2.5)
        if base is not None:
            _name_base(placer, base)
        order = sorted(range(len(marks)), key=lambda i: (not front[i], -sign * marks[i].y))
        names = names_of([mark.group for mark in marks], 20 if sheet.narrow else 28)
        for i in order if len(marks) <= MOST_NAMED else [i for i in order if front[i]]:
            color = "#222222" if front[i] else "#777777"
            rings = RINGS if front[i] else DOMINATED_RINGS
            placer.place(marks[i].point, names[i], rings, _beside(spots, sizes, i), color=color)

    sheet.before_saving.append(label)


def _draw_changes(sheet: Sheet, marks: Sequence[Mark], x_scale: Scale, y_scale: Scale) -> None:
    from harness.stats import on_frontier

    [axes] = sheet.axes()
    best = on_frontier([x_scale.gain(mark.x) for mark in marks], [-y_scale.gain(mark.y) for mark in marks])
    front = [place for place, on in enumerate(best) if on]  # no other beats them in both: the best learner first
    front.sort(key=lambda place: -x_scale.gain(marks[place].x))
    named = {*range(len(marks))} if len(marks) <= MOST_NAMED else {*front}
    spots = _spots(marks)
    sizes = _sizes(spots, [place not in named for place in range(len(marks))])
    for place, mark in enumerate(marks):
        words = f"{x_scale.text(mark.x, signed=True)} learned, {y_scale.text(mark.y, signed=True)} retained"
        _draw_mark(sheet, axes, mark, words, place not in named, sizes[place])
    for draw in (axes.axhline, axes.axvline):
        base_line(draw, 0)
    axes.margins(0.12)
    amounts(axes.xaxis)
    amounts(axes.yaxis)
    for scale, title in ((x_scale, axes.set_xlabel), (y_scale, axes.set_ylabel)):
        title(sheet.wrapped(f"Change in {scale.quantity} ({scale.unit_of_gain})", vertical=title == axes.set_ylabel))

    def label() -> None:
        placer = Placer(axes)
        (left, right), (low, high) = axes.get_xlim(), axes.get_ylim()
        placer.keep_line([(left, 0), (right, 0)])
        placer.keep_line([(0, low), (0, high)])
        _keep(placer, marks, sizes)
        placer.place((0, 0), "base", color=BASE_COLOR)
        names = names_of([mark.group for mark in marks], 20 if sheet.narrow else 28)
        for place in [*front, *(place for place in range(len(marks)) if place not in front)]:
            if place in named:
                placer.place(marks[place].point, names[place], near=_beside(spots, sizes, place))

    sheet.before_saving.append(label)


def _distinct(trained: Sequence[Group]) -> list[Cost]:
    """Return the costs that differ between methods; of several that are proportional, the first."""
    panels: list[tuple[Cost, list[float | None]]] = []
    for cost in COSTS:
        prices = [cost.of(group) for group in trained]
        if len({*prices} - {None}) > 1 and not any(_proportional(prices, other) for _, other in panels):
            panels.append((cost, prices))
    return [cost for cost, _ in panels]


def _proportional(a: Sequence[float | None], b: Sequence[float | None]) -> bool:
    """Return whether both are unknown for the same methods, and of one ratio elsewhere."""
    ratios = [x / y for x, y in zip(a, b, strict=True) if x is not None and y]
    same = [x is None for x in a] == [x is None for x in b]
    return same and bool(ratios) and min(ratios) > 0 and max(ratios) <= (1 + ALIKE) * min(ratios)


def _remarks(marks: Sequence[Mark], spots: Sequence[Point]) -> str:
    """Return what the caption says of hollow marks and of those that lie below another."""
    larger = any(_coincident(spots, place) for place in range(len(spots)))
    return (HOLLOW if any(mark.hollow for mark in marks) else "") + (LARGER if larger else "")


def _spots(marks: Sequence[Mark], log: bool = False) -> list[Point]:
    """Return the places of the marks, in spans of all marks and bars; with `log` the axis of x is logarithmic."""
    ends = [point for mark in marks for point in (mark.point, *(end for bar in mark.bars for end in bar))]
    points = [(math.log(x) if log else x, y) for x, y in (*(mark.point for mark in marks), *ends)]
    wide, high = (max(axis) - min(axis) or 1.0 for axis in zip(*points, strict=True))
    return [(x / wide, y / high) for x, y in points[: len(marks)]]


def _coincident(spots: Sequence[Point], place: int) -> list[int]:
    """Return the places of the other marks that lie where this one does."""
    x, y = spots[place]
    near = (abs(a - x) <= COINCIDES and abs(b - y) <= COINCIDES for a, b in spots)
    return [other for other, is_near in enumerate(near) if is_near and other != place]


def _sizes(spots: Sequence[Point], pale: Sequence[bool]) -> list[float]:
    """Return the size of each mark; one that lies below others is larger for each of them, so that all are seen."""
    sizes = []
    for place in range(len(spots)):
        depth = (not pale[place], place)  # marks are drawn in this order, the gray ones first
        above = sum((not pale[other], other) > depth for other in _coincident(spots, place))
        sizes.append(POINT + STEP * min(above, MOST_STEPS) if above else PALE_POINT if pale[place] else POINT)
    return sizes


def _draw_mark(sheet: Sheet, axes: Any, mark: Mark, words: str, pale: bool, size: float) -> None:
    style = point_of(method_of(mark.group), pale, mark.hollow)
    for ends in mark.bars:
        axes.plot(*zip(*ends, strict=True), color=style["color"], linewidth=0.8, zorder=1.5 if pale else 2)
    [point] = axes.plot(*mark.point, markersize=size, linestyle="none", zorder=2 if pale else 3, **style)
    sheet.name(point, f"{mark.group.name}: {words}")


def _beside(spots: Sequence[Point], sizes: Sequence[float], place: int) -> float:
    """Return the distance of a label from its mark in points, outside of the largest one at its place."""
    largest = max(sizes[other] for other in (place, *_coincident(spots, place)))
    return max(NEAR, _radius(largest) + 1.3)


def _radius(size: float) -> float:
    """Return the radius that labels are kept off a mark; that of a large one reaches the corners of a diamond."""
    return 3.2 if size <= POINT else 0.75 * size


def _keep(placer: Placer, marks: Sequence[Mark], sizes: Sequence[float]) -> None:
    """Keep labels off all points and their bars."""
    for mark, size in zip(marks, sizes, strict=True):
        placer.keep_points([mark.point], _radius(size) + (0.2 if mark.hollow else 0.0))
        for ends in mark.bars:
            placer.keep_line(ends)


def _name_base(placer: Placer, level: float) -> None:
    """Keep labels off the base's line, and write "base" at its right end, where that is free."""
    left, right = placer.axes.get_xlim()
    placer.keep_line([(left, level), (right, level)])
    for end in (right, left):
        x, y = placer.pixels((end, level))
        inside = placer.axes.transData.inverted().transform((x + (-14 if end == right else 14) * placer.scale, y))
        if placer.place((inside[0], level), "base", color=BASE_COLOR, rings=1):
            return


def _first(groups: Sequence[Group], role: str, measure: Measure | None) -> Quality | None:
    """Return the first quality of a role of which gains are known, the measure that answers the question before all."""
    of_role = (quality for quality in qualities(groups, (role,), measure) if quality.higher_is_better)
    return next((quality for quality in of_role if any(quality.gain(group) for group in groups)), None)
