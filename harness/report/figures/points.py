"""Groups as points: named where they are few, numbered as in the legend where they are more, else of one color."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from harness.report.data.groups import Group
from harness.report.figures.placing import place_labels
from harness.report.figures.style import BASE_COLOR, COLORS, MOST_LEGEND, MOST_NAMED, names_of, point_of

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

Place = tuple[tuple[float, float | None], tuple[float, float | None]]  # horizontal and vertical: value, standard error
_BARS: dict[str, Any] = {"elinewidth": 0.7, "capsize": 2}


def measured(found: SeedEstimate) -> tuple[float, float | None]:
    """Return the value and the standard error of an estimate, as a `Place` has them."""
    return found.value, found.standard_error


def draw_points(axes: Any, groups: Sequence[Group], places: Sequence[Place | None]) -> None:
    """Draw a point with error bars for every group that has a place, and a legend entry for every group."""
    known = [(index, place) for index, place in enumerate(places) if place]
    if len(groups) > MOST_LEGEND:
        _cloud(axes, [place for _, place in known])
        return
    for index, name in enumerate(names_of(groups)):
        axes.plot([], [], linestyle="none", label=name, **point_of(index))
    for index, ((x, x_error), (y, y_error)) in known:
        axes.errorbar(x, y, xerr=x_error, yerr=y_error, **_BARS, **point_of(index))


def draw_base(axes: Any, values: Sequence[float]) -> None:
    """Draw a dashed line for the untouched model."""
    for value in dict.fromkeys(values):
        axes.axhline(value, color=BASE_COLOR, linestyle=(0, (4, 3)), linewidth=1)


def name_points(
    axes: Any,
    groups: Sequence[Group],
    places: Sequence[Place | None],
    lines: Sequence[float] = (),
    steps: Sequence[tuple[float, float]] = (),
) -> None:
    """Names or numbers beside the points, and "base" on the lines; the limits of the axes must be final.

    `steps` are the corners of a line that names do not cover, if they can help it.
    """
    names = names_of(groups)
    beside = names if len(groups) <= MOST_NAMED else [name.split()[0] for name in names]
    known = [((place[0][0], place[1][0]), name) for place, name in zip(places, beside, strict=True) if place]
    named = known if len(groups) <= MOST_LEGEND else []
    place_labels(axes, [point for point, _ in named], [name for _, name in named], list(dict.fromkeys(lines)), steps)


def _cloud(axes: Any, places: Sequence[Place]) -> None:
    """Many points at once, with light bars."""
    if not places:
        return
    x, y = ([place[side][0] for place in places] for side in (0, 1))
    x_error, y_error = ([place[side][1] or 0.0 for place in places] for side in (0, 1))
    errors = {"xerr": x_error if any(x_error) else None, "yerr": y_error if any(y_error) else None}
    axes.errorbar(x, y, **errors, fmt="none", ecolor="#BBBBBB", elinewidth=0.5, zorder=1)
    axes.plot(x, y, linestyle="none", marker="o", markersize=3, color=COLORS[0], markeredgecolor="white", zorder=2)
