"""Style of every figure: colors, lines, markers and hatches; the canvas; and the three files it is saved to.

Color alone never tells two series apart: lines, markers or hatches do so too, so that a gray print stays readable.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.records.untrusted import shortened
from harness.report.data.groups import Group
from harness.report.display import short

# Okabe and Ito, Color Universal Design, 2008; without yellow, which is hard to see on white.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
HATCHES = ("", "////", "....", "xxxx", "\\\\\\\\")
BASE_COLOR = "#555555"
WIDTH_INCHES = 7.0
SHORTENED = 1e4  # ticks from here on are written as 10k
MOST_NAMED = 8  # with more groups the points carry the numbers of the legend
MOST_LEGEND = 48  # more series than a legend has room for are drawn without names
FORMATS = ("svg", "pdf", "png")
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.titlesize": 8,
    "axes.titlelocation": "left",
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "hatch.linewidth": 0.5,
    "svg.hashsalt": "harness",
    "text.parse_math": False,
}
_METADATA: dict[str, dict[str, None]] = {  # no date and no library version: equal records give equal bytes
    "svg": {"Date": None, "Creator": None},
    "pdf": {"CreationDate": None, "Creator": None, "Producer": None},
    "png": {"Software": None},
}


@dataclass(frozen=True)
class Drawn:
    """A figure that was drawn: its file name without the suffix, what it shows, and how to read it."""

    stem: str
    title: str
    caption: str


@contextmanager
def drawing(folder: Path, stem: str, height_inches: float) -> Iterator[Any]:
    """Yield an empty figure, and save it as SVG, PDF and PNG after the drawing."""
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        figure = Figure(figsize=(WIDTH_INCHES, height_inches))
        FigureCanvasAgg(figure)
        yield figure
        for suffix in FORMATS:
            figure.savefig(folder / f"{stem}.{suffix}", dpi=200, metadata=_METADATA[suffix])


def remove(folder: Path, stem: str) -> None:
    """Delete the files of an old figure."""
    for suffix in FORMATS:
        (folder / f"{stem}.{suffix}").unlink(missing_ok=True)


def style_of(index: int) -> dict[str, Any]:
    """Return color, line and marker; a combination repeats only after 7 x 7 groups."""
    turn = index // len(COLORS)
    return {
        "color": COLORS[index % len(COLORS)],
        "linestyle": LINES[(index + turn) % len(LINES)],
        "marker": MARKERS[(index + 2 * turn) % len(MARKERS)],
    }


def point_of(index: int) -> dict[str, Any]:
    """Return color and marker of one point, with a rim that separates overlapping points."""
    style = style_of(index)
    return {"color": style["color"], "marker": style["marker"], "markersize": 6, "markeredgecolor": "white"}


def drawable(text: str, length: int = 34) -> str:
    """Text that the figures' font has, on one line."""
    return shortened(text.encode("latin-1", "replace").decode("latin-1"), length)


def names_of(groups: Sequence[Group]) -> list[str]:
    """Return the names of the legend, numbered where there are too many to write beside the points."""
    short = [drawable(group.label) for group in groups]
    return short if len(groups) <= MOST_NAMED else [f"{i} {name}" for i, name in enumerate(short, 1)]


def logarithmic(axis: Any) -> None:
    """Make an axis logarithmic, with ticks as settings are written: 1e-3, 10M; the font draws no formulas."""
    from matplotlib.ticker import FuncFormatter

    def between(value: float, _: int) -> str:
        """Label the ticks between the powers of ten where few powers are visible."""
        low, high = axis.get_view_interval()
        leading = round(value / 10 ** math.floor(math.log10(value) + 1e-9))
        return compact(value) if high / low < 30 and leading in (2, 5) else ""

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.set_minor_formatter(FuncFormatter(between))


def amounts(axis: Any, largest: float) -> None:
    """Make the ticks of a linear axis few enough for half a page, and short: 80k and not 80000."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(6))
    if largest >= SHORTENED:
        axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """Return a number as a tick label: 2e-5, 0.01, 25, 10k, 4.9M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= factor:
            return f"{value / factor:.3g}{suffix}"
    return short(float(f"{value:.3g}"))


def legend_rows(count: int) -> int:
    """Lines of the legend below a figure, four names each."""
    return -(-count // 4) if count <= MOST_LEGEND else 0


def legend_below(figure: Any, axes: Any, count: int) -> None:
    """One legend for all panels, from the labels of one of them; none where it would hold too many."""
    if count <= MOST_LEGEND:
        handles, labels = axes.get_legend_handles_labels()
        columns = min(4, count)
        longest = max(map(len, labels), default=0)
        # in points, so that the longest name fits into a column
        size = min(8.0, max(4.5, 8.0 * 76 / columns / max(longest, 1)))
        figure.legend(handles, labels, loc="lower center", ncols=columns, handlelength=3.2, fontsize=size)


def room(figure: Any, count: int, height_inches: float, **places: float) -> None:
    """Margins in inches around the panels, with room below for the axis titles and the legend."""
    below = 0.5 + 0.18 * legend_rows(count)
    given = {"left": 0.62, "right": 0.18, "top": 0.27, "bottom": below, **places}
    figure.subplots_adjust(
        left=given["left"] / WIDTH_INCHES,
        right=1 - given["right"] / WIDTH_INCHES,
        top=1 - given["top"] / height_inches,
        bottom=given["bottom"] / height_inches,
        wspace=given.get("wspace", 0.27),
        hspace=given.get("hspace", 0.45),
    )
