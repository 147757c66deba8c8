"""Style of every figure: a color and a marker for each method, axes, and a metric in the unit of its axis.

Color alone never separates two series: markers, dashes, hatches or names do so too, so that a gray print stays
readable.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any
from zlib import crc32

from harness.records.untrusted import shortened
from harness.report import names
from harness.report.analysis.axes import Quality
from harness.report.analysis.claims import MetricComparison
from harness.report.data.groups import Group
from harness.report.display import capital, short, steady

# Okabe and Ito, Color Universal Design, 2008, without yellow, which is hard to see on white, and without black, the
# color of text; then two dark hues of Paul Tol's palette for color-blind readers.
COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#332288", "#882255")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "h")
DASHES = ((0, ()), (0, (4, 1.5)), (0, (1, 1)), (0, (5, 1, 1, 1)), (0, (8, 1.5)), (0, (3, 1, 1, 1, 1, 1)))
BASE_COLOR, PALE, FILL = "#444444", "#BBBBBB", "#DDEBF5"
BASE_DASH = (0, (4, 3))
MOST_LINEAR = 8  # ratio of the largest to the smallest value of a linear axis
_LONGEST_NAME = 60  # characters
# Methods in the order in which they take the pairs of color and marker: the first eight differ in both. Every other
# method takes the pair that its name hashes to among those that are left.
KNOWN = (
    "lora", "full", "qlora", "dora", "adapter", "prefix", "vera", "ia3", "prompt", "adalora", "bitfit", "p_tuning",
    "lora_plus", "galore", "qdora", "lora_fa", "ln_tuning", "llama_adapter", "rslora", "head", "alora", "olora",
    "spectrum", "pissa", "unsloth", "loftq", "eva",
)  # fmt: skip
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.linewidth": 0.6,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.unicode_minus": True,
    "grid.color": "#E4E4E4",
    "grid.linewidth": 0.4,
    "xtick.major.width": 0.6,
    "ytick.major.width": 0.6,
    "xtick.major.size": 2.5,
    "ytick.major.size": 2.5,
    "lines.linewidth": 1.1,
    "lines.markersize": 4.5,
    "legend.frameon": False,
    "legend.handlelength": 2.4,
    "legend.columnspacing": 1.2,
    "legend.labelspacing": 0.3,
    "hatch.linewidth": 0.5,
    "pdf.fonttype": 42,  # TrueType: the checks of publishers reject Type 3
    "svg.fonttype": "none",
    "svg.hashsalt": "harness",
    "text.parse_math": False,
    "figure.constrained_layout.h_pad": 0.04,
    "figure.constrained_layout.w_pad": 0.05,
}
MOST_TITLE = 60  # characters of an axis title


def method_of(group: Group) -> str:
    """Return the name that decides color and marker: that of the method, of its variant, or of its PEFT type."""
    return kind_of(group.first.method, group.first.part("method"))


def kind_of(method: str, settings: Mapping[str, Any]) -> str:
    """Return the name of a method, given its settings, or that of a variant of LoRA: lora, pissa, qlora loftq."""
    own = str(settings.get("peft_type") or method).lower()
    named = (names.variant(f"method.{key}", value) for key, value in settings.items())
    variants = " ".join(name.display.lower() for name in named if name and name.display)
    return " ".join(filter(None, ("" if own == "lora" and variants else own, variants)))


@cache
def look_of(method: str) -> tuple[str, str]:
    """Return the color and the marker of a method: the same in every figure of every report."""
    place = KNOWN.index(method) if method in KNOWN else len(KNOWN) + crc32(method.encode()) % len(KNOWN)
    turn, hue = divmod(place, len(COLORS))
    return COLORS[hue], MARKERS[(hue + turn) % len(MARKERS)]


def dash_of(method: str) -> Any:
    """Return the dashes of the method's line, which follow its marker."""
    return DASHES[MARKERS.index(look_of(method)[1]) % len(DASHES)]


def line_of(method: str) -> dict[str, Any]:
    """Return color, marker and dashes of a method's line."""
    color, marker = look_of(method)
    return {"color": color, "marker": marker, "linestyle": dash_of(method), "markeredgecolor": "white",
            "markeredgewidth": 0.4}  # fmt: skip


def lines_of(methods: Sequence[str]) -> list[dict[str, Any]]:
    """Return the style of each line; lines of one method have dashes of their own, in their order."""
    repeated = len({*methods}) < len(methods)
    styles = []
    for place, method in enumerate(methods):
        before = methods[:place].count(method)
        styles.append(line_of(method) | ({"linestyle": DASHES[before % len(DASHES)]} if repeated else {}))
    return styles


def point_of(method: str, pale: bool = False, hollow: bool = False) -> dict[str, Any]:
    """Return color and marker of a point, with a rim that separates overlapping points.

    A hollow one is that of a method without a verdict.
    """
    color, marker = look_of(method)
    drawn = PALE if pale else color
    rim = {"markerfacecolor": "white", "markeredgecolor": drawn} if hollow else {"markeredgecolor": "white"}
    return {"color": drawn, "marker": marker, "markeredgewidth": 1.0 if hollow else 0.5, **rim}


@cache
def _has_glyph(character: str) -> bool:
    from matplotlib.font_manager import findfont, get_font

    return bool(get_font(findfont(STYLE["font.family"])).get_char_index(ord(character)))


def drawable(text: str, length: int = 34) -> str:
    """Return foreign text on one line, with a question mark for every character that the figures' font lacks."""
    return "".join(c if _has_glyph(c) else "?" for c in shortened(text, length))


def name_of(group: Group, length: int = 28) -> str:
    """Return the name of a row in a figure."""
    return drawable(group.name, length)


def names_of(groups: Sequence[Group], length: int = 28) -> list[str]:
    """Return the names of rows in one figure, which differ where the rows do.

    They are shortened to the length; where two would be alike, alpha is written as a letter, or else names are whole.
    """
    names = [group.name for group in groups]
    ways = (names, [name.replace("alpha=", "\N{GREEK SMALL LETTER ALPHA}=") for name in names])
    short = ([drawable(name, length) for name in way] for way in ways)
    whole = [drawable(name, _LONGEST_NAME) for name in names]
    return next((way for way in short if len({*way}) == len({*names})), whole)


def logarithmic(axis: Any, values: Sequence[float] = ()) -> None:
    """Make an axis logarithmic, with ticks as settings are written: 1e-3, 10M; `values` are the only ticks."""
    from matplotlib.ticker import FixedLocator, FuncFormatter, NullFormatter

    def between(value: float, _: object) -> str:
        """Label the ticks between the powers of ten where few powers are visible."""
        low, high = axis.get_view_interval()
        leading = round(value / 10 ** math.floor(math.log10(value) + 1e-9))
        return compact(value) if high / low < 30 and leading in (2, 5) else ""

    axis.axes.set(**{f"{axis.axis_name}scale": "log"})
    axis.axes.tick_params(axis=axis.axis_name, which="minor", length=0)
    axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))
    axis.set_minor_formatter(FuncFormatter(between))
    if values:
        axis.set_major_locator(FixedLocator([*values]))
        axis.set_minor_formatter(NullFormatter())


def amounts(axis: Any, ticks: int = 5) -> None:
    """Make the ticks of a linear axis few and short: 80k and not 80000."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axis.set_major_locator(MaxNLocator(ticks))
    low, high = axis.get_view_interval()
    if max(abs(low), abs(high)) >= 1e4:
        axis.set_major_formatter(FuncFormatter(lambda value, _: compact(value)))


def compact(value: float) -> str:
    """Return a number as a tick label: 2e-5, 0.01, 25, 10k, 4.9M."""
    for factor, suffix in ((1e9, "G"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= factor:
            return f"{value / (1e3 if suffix == 'k' else factor):.3g}{suffix}"
    return short(float(f"{value:.4g}"))


def spans_decades(values: Sequence[float]) -> bool:
    """Return whether positive values are so far apart that a linear axis would crowd the small ones."""
    return bool(values) and min(values) > 0 and max(values) >= MOST_LINEAR * min(values)


def base_line(draw: Callable[..., Any], value: float) -> Any:
    """Draw the dashed line of the untouched model, with `axhline` or `axvline` of the axes."""
    return draw(value, color=BASE_COLOR, linestyle=BASE_DASH, linewidth=0.9, zorder=1)


@dataclass(frozen=True)
class Scale:
    """Scale of a task's metric: shares of 1 in percent and their differences in points."""

    task: str
    metric: str
    higher_is_better: bool

    @property
    def factor(self) -> float:
        """Return the factor from a recorded number to a drawn one."""
        return 100.0 if names.metric(self.metric).percent else 1.0

    @property
    def quantity(self) -> str:
        """Return the words for the number without its unit: ARC-Easy accuracy, validation loss."""
        if self.metric == "loss" and self.task.endswith(("/validation", "/test")):
            return f"{self.task.rpartition('/')[2]} loss"
        task, metric = names.task(self.task), names.metric(self.metric).display.partition(" (nats")[0]
        name = task.display if len(task.display) + len(metric) < MOST_TITLE - 20 else task.short
        return drawable(f"{name} {metric}", MOST_TITLE)

    @property
    def unit(self) -> str:
        """Return the unit of a score."""
        return "%" if self.factor != 1 else "nats per token" if "(nats" in names.metric(self.metric).display else ""

    @property
    def unit_of_gain(self) -> str:
        """Return the unit of a difference."""
        return "points" if self.factor != 1 else self.unit

    @property
    def title(self) -> str:
        """Return the title of an axis of scores."""
        return capital(f"{self.quantity} ({self.unit})" if self.unit else self.quantity)

    def error(self, error: float | None) -> float | None:
        """Return a standard error as drawn."""
        return None if error is None else self.factor * error

    def gain(self, difference: float) -> float:
        """Return a difference as drawn: positive is better."""
        return self.factor * difference * (1 if self.higher_is_better else -1)

    def text(self, drawn: float, signed: bool = False) -> str:
        """Return a drawn number in words: 63.0 %, +13.5 points, 2.471 nats per token."""
        digits = 1 if self.factor != 1 else 3
        unit = self.unit_of_gain if signed else self.unit
        return f"{steady(drawn):{'+' if signed else ''}.{digits}f} {unit}".rstrip()


def scale_of(measured: MetricComparison | Quality) -> Scale:
    """Return the axis of a measure."""
    return Scale(measured.task, measured.measure.metric, measured.higher_is_better)
