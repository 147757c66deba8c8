"""Labels beside the points of a plot, where they cover neither a mark nor each other: measured, never guessed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from harness.stats.estimate import Floats

Point = tuple[float, float]
NEAR, RING, RINGS = 4.5, 5.0, 14  # points: from a mark to its label, and between the rings of further places
_SIDES = (
    (1, 0), (0, 1), (0, -1), (-1, 0), (0.8, 0.8), (0.8, -0.8), (-0.8, 0.8), (-0.8, -0.8), (0.95, 0.4), (0.95, -0.4),
    (-0.95, 0.4), (-0.95, -0.4), (-0.4, 1), (-0.4, -1), (0.4, 1), (0.4, -1),
)  # fmt: skip
_CLEARANCE = 1.0  # points around a label


@dataclass
class Placer:
    """Places that are taken on the axes, as boxes in pixels: left, bottom, right, top.

    The limits and the layout of the axes must be final.
    """

    axes: Any
    taken: list[Sequence[float]] = field(default_factory=list)
    lines: list[Sequence[float]] = field(default_factory=list)  # no label covers them, and a leader may cross them
    leaders: list[Sequence[float]] = field(default_factory=list)

    @cached_property
    def _frame(self) -> Any:
        return self.axes.get_window_extent()

    @cached_property
    def scale(self) -> float:
        """Return the pixels of a point."""
        return float(self.axes.figure.dpi / 72)

    def pixels(self, point: Point) -> Floats:
        """Return the place of a point in data coordinates."""
        return np.asarray(self.axes.transData.transform(point), dtype=np.float64)

    def keep_points(self, points: Sequence[Point], radius: float = 3.2) -> None:
        """Keep labels off markers of that radius, in points."""
        reach = radius * self.scale
        self.taken += [(x - reach, y - reach, x + reach, y + reach) for x, y in map(self.pixels, points)]

    def keep_line(self, corners: Sequence[Point], width: float = 1.0) -> None:
        """Keep labels off a line through corners in data coordinates."""
        for a, b in pairwise([self.pixels(corner) for corner in corners]):
            steps = max(2, int(np.hypot(*(b - a)) / (2 * self.scale)))
            flat = a[0] == b[0] or a[1] == b[1]
            ends = [(a, b)] if flat else [*pairwise(a + (b - a) * t for t in np.linspace(0, 1, steps))]
            reach = width * self.scale
            self.lines += [(min(p[0], q[0]) - reach, min(p[1], q[1]) - reach, max(p[0], q[0]) + reach,
                            max(p[1], q[1]) + reach) for p, q in ends]  # fmt: skip

    def place(self, point: Point, label: str, rings: int = RINGS, near: float = NEAR, **style: Any) -> bool:
        """Write a label at the nearest free place around a point, with a leader to a far one; False without a place.

        `near` is the distance from a mark to its label in points, larger for a large mark.
        """
        style = {"color": "#222222", **style}
        text = self.axes.annotate(
            label, point, xytext=(0, 0), textcoords="offset points", ha="center", va="center", annotation_clip=False,
            **style,
        )  # fmt: skip
        text.set_in_layout(False)
        box = text.get_window_extent()
        half = np.array([box.width / 2, box.height / 2]) / self.scale
        center = self.pixels(point)
        for ring, offset in _offsets(half, rings, near):
            middle = center + offset * self.scale
            reach = (half + _CLEARANCE) * self.scale
            place = (*(middle - reach), *(middle + reach))
            leader = self._leader(center, middle, reach, near) if ring else []
            over = any(_overlap(place, line) for line in (*self.lines, *self.leaders))
            crosses = any(_overlap(piece, other) for piece in leader for other in self.leaders)
            if not over and not crosses and all(self._is_free(box) for box in (place, *leader)):
                text.set_position(tuple(offset))
                self.taken.append(place)
                self.leaders += leader
                if ring:
                    self._draw_leader(center, leader, style["color"])
                return True
        text.remove()
        return False

    def _leader(self, center: Floats, middle: Floats, half: Floats, distance: float) -> list[tuple[float, ...]]:
        """Return the boxes of a line from beside the mark, at that distance in points, to beside the label."""
        near = np.clip(center, middle - half, middle + half)
        way = near - center
        length = float(np.hypot(*way)) or 1.0
        start = center + way / length * distance * self.scale
        points = [start + (near - start) * t for t in np.linspace(0, 1, max(2, int(length / (2 * self.scale))))]
        return [(x - 0.4, y - 0.4, x + 0.4, y + 0.4) for x, y in points]

    def _draw_leader(self, center: Floats, leader: Sequence[Sequence[float]], color: str) -> None:
        back = self.axes.transData.inverted()
        ends = [back.transform((place[0] + 0.4, place[1] + 0.4)) for place in (leader[0], leader[-1])]
        [line] = self.axes.plot(*zip(*ends, strict=True), color=color, linewidth=0.4, zorder=1, scalex=False,
                                scaley=False)  # fmt: skip
        line.set_in_layout(False)

    def _is_free(self, box: Sequence[float]) -> bool:
        frame = self._frame
        if box[0] < frame.x0 or box[1] < frame.y0 or box[2] > frame.x1 or box[3] > frame.y1:
            return False
        return not any(_overlap(box, other) for other in self.taken)


def _overlap(a: Sequence[float], b: Sequence[float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def _offsets(half: Floats, rings: int, near: float) -> Iterator[tuple[int, Floats]]:
    """Yield the places of a label's center around its point, near ones first, in points."""
    for ring in range(rings):
        for x, y in _SIDES:
            distance = near + ring * RING
            yield ring, np.array([x * (distance + half[0]), y * (distance + half[1])])
