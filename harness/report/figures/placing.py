"""Labels beside the points of a plot, where they cover neither a point nor each other."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

Box = tuple[float, float, float, float]  # left, bottom, right, top, in pixels
NEAR, FAR = 6.0, 14.0  # points between a marker and its label


Point = tuple[float, float]


def place_labels(
    axes: Any, points: Sequence[Point], labels: Sequence[str], lines: Sequence[float], steps: Sequence[Point] = ()
) -> None:
    """Write a label beside each point and "base" on each horizontal line, in the place that covers least.

    The limits of the axes must be final but for the lines, which they are widened to hold. `steps` are the corners of a
    line of horizontal and vertical pieces, which is not covered either.
    """
    low, high = axes.get_ylim()
    if lines:
        pad = 0.08 * (max(high, *lines) - min(low, *lines))
        axes.set_ylim(min(low, min(lines) - pad), max(high, max(lines) + pad))
    figure = axes.figure
    figure.canvas.draw()
    frame = axes.get_window_extent()
    scale = figure.dpi / 72
    markers = [axes.transData.transform(point) for point in points]
    taken: list[Box] = [(x - 4 * scale, y - 4 * scale, x + 4 * scale, y + 4 * scale) for x, y in markers]
    edges: Box = (frame.x0, frame.y0, frame.x1, frame.y1)
    corners = [axes.transData.transform(corner) for corner in steps]
    taken += [_strip(a, b, scale) for a, b in pairwise(corners)]
    for line in lines:
        _name_line(axes, line, taken, edges)
    strips = [axes.transData.transform((0, line))[1] for line in lines]
    taken += [(frame.x0, y - scale, frame.x1, y + scale) for y in strips]
    for point, label in sorted(zip(points, labels, strict=True), key=lambda one: (-one[0][1], one[0][0])):
        _name_point(axes, point, label, taken, edges)


def _strip(a: Point, b: Point, width: float) -> Box:
    """A piece of a line, as wide as that on both sides."""
    return (min(a[0], b[0]) - width, min(a[1], b[1]) - width, max(a[0], b[0]) + width, max(a[1], b[1]) + width)


_AROUND = (
    (1, 0, "left", "center"),
    (-1, 0, "right", "center"),
    (0, 1, "center", "bottom"),
    (0, -1, "center", "top"),
    (0.8, 0.8, "left", "bottom"),
    (0.8, -0.8, "left", "top"),
    (-0.8, 0.8, "right", "bottom"),
    (-0.8, -0.8, "right", "top"),
)


def _name_point(axes: Any, point: tuple[float, float], label: str, taken: list[Box], edges: Box) -> None:
    """Try the places around a point, near ones first; a line leads to a label that is far away."""
    backing = {"facecolor": "white", "edgecolor": "none", "alpha": 0.75, "pad": 0.5}
    tries: list[dict[str, Any]] = [
        {"xy": point, "xytext": (distance * x, distance * y), "ha": side, "va": level, "bbox": backing}
        for distance in (NEAR, FAR, 2 * FAR)
        for x, y, side, level in _AROUND
    ]
    x, y = _least_covering(axes, label, tries, taken, edges).get_position()
    if max(abs(x), abs(y)) > NEAR:
        leader = {"arrowstyle": "-", "linewidth": 0.5, "color": "#888888", "shrinkA": 0, "shrinkB": 3}
        axes.annotate("", point, xytext=(x, y), textcoords="offset points", arrowprops=leader)


def _name_line(axes: Any, line: float, taken: list[Box], edges: Box) -> None:
    """Write "base" above or below a horizontal line, at its emptier end."""
    across = {"xycoords": axes.get_yaxis_transform(), "color": "#555555"}
    tries: list[dict[str, Any]] = [
        {"xy": (x, line), "xytext": (0, offset), "ha": side, "va": level, **across}
        for x, side in ((0.985, "right"), (0.015, "left"))
        for offset, level in ((2, "bottom"), (-2, "top"))
    ]
    _least_covering(axes, "base", tries, taken, edges)


def _least_covering(axes: Any, label: str, tries: Sequence[dict[str, Any]], taken: list[Box], edges: Box) -> Any:
    """Write the label in the first place that covers nothing, else in the one that covers least."""
    best: tuple[float, Any, Box] | None = None
    for place in tries:
        text = axes.annotate(label, textcoords="offset points", fontsize=7, annotation_clip=False, **place)
        box = _box(text)
        covered = sum(_overlap(box, other) for other in taken) + 3 * _outside(box, edges)
        if best is not None and covered >= best[0]:
            text.remove()
            continue
        if best:
            best[1].remove()
        best = (covered, text, box)
        if covered == 0:
            break
    assert best is not None, "there is always a first try"
    taken.append(best[2])
    return best[1]


def _box(text: Any) -> Box:
    extent = text.get_window_extent()
    return (extent.x0, extent.y0, extent.x1, extent.y1)


def _overlap(a: Box, b: Box) -> float:
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _outside(box: Box, edges: Box) -> float:
    area = (box[2] - box[0]) * (box[3] - box[1])
    return area - _overlap(box, edges)
