"""Lines over a setting: the score against whatever was swept, and the validation loss against the learning rate."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from harness.report import names
from harness.report.analysis.axes import Quality, qualities
from harness.report.analysis.claims import Claims, MetricComparison
from harness.report.analysis.series import Series, Swept, rate_series
from harness.report.data.groups import Group, aligned
from harness.report.display import capital, lowered
from harness.report.figures.bars import bars_of
from harness.report.figures.canvas import Figure, Sheet, Size
from harness.report.figures.style import (
    PALE,
    Scale,
    amounts,
    base_line,
    drawable,
    lines_of,
    logarithmic,
    method_of,
    scale_of,
    spans_decades,
)

MOST_TICKS = 9
MOST_COLORED = 6  # series; the others are pale
_PALE: dict[str, Any] = {"color": PALE, "marker": "", "linestyle": "-", "zorder": 1, "linewidth": 0.7}
_CHARACTERS, _SAMPLE = 120, 6  # that an inch holds, times the size of the text in points; of the line before a name
DODGE = 2.2  # points between the same values of two series
Interval = tuple[float, float]


@dataclass(frozen=True)
class Value:
    """A number of the vertical axis with the ends of its bar; None: there is no bar."""

    value: float
    interval: Interval | None


Values = Callable[[Group], Value | None]


def over_setting(swept: Swept, claims: Claims) -> Figure | None:
    """Return the figure of the score against a setting; None where too few groups have one."""
    if not claims.contest.groups:
        return None
    scale = scale_of(claims.contest)
    values, base = _scores(claims, scale)
    series = _ordered(swept.series, values, scale)
    if not series:
        return None
    setting = names.setting(swept.key).display
    bars = (
        "Bars: simultaneous 95 % confidence intervals of the gain, so that one clear of the dashed line (base) is a "
        "significant difference from it."
        if base is not None
        else "Bars: 95 % confidence intervals."
        if any(place.interval for line in series for _, group in line.points if (place := values(group)))
        else ""
    )
    return Figure(
        f"by_{swept.key.rpartition('.')[2]}",
        f"{capital(scale.quantity)} against {lowered(setting)}",
        f"Lines: means over the seeds.{bars and f' {bars}'}{_pale(series)}",
        lambda sheet: _draw(sheet, series, values, scale.title, base=base, x_title=drawable(setting, 50)),
        lambda size: _height(size, series),
        main=True,
    )


def sensitivity(groups: Sequence[Group], bases: Sequence[Group] = ()) -> Figure | None:
    """Return the figure of the validation loss against the learning rate; None unless a method has two rates.

    Its axis ends a little above the loss of the base model (`bases`), where it is known: a diverging rate would press
    those that matter into a line.
    """
    quality = next(iter(qualities(groups, ("validation",))), None)
    if quality is None:
        return None
    scale = scale_of(quality)
    values = _errors(quality, scale)
    series = _ordered(rate_series(groups), values, scale)
    if not series:
        return None
    failed = any(line.failed for line in series)
    base = next((place.value for group in bases if (place := values(group))), None)
    ceiling = None if base is None else _ceiling(base, [v.value for line in series for v in _points(line, values)])
    level = "" if base is None else " Dashed: base." if ceiling is None else (
        " Dashed: base; losses far above it are beyond the axis."
    )  # fmt: skip
    return Figure(
        "sensitivity",
        f"{capital(scale.quantity)} against the learning rate",
        "Means over the seeds with one standard error over items and seeds; the items are the same everywhere, so that "
        "bars do not compare two points. Filled: the best rate of a method; at the end of its line, a "
        "better rate may lie beyond." + level + (" Crosses: rates without a result." if failed else "") + _pale(series),
        lambda sheet: _draw(
            sheet, series, values, scale.title, x_title="Learning rate", base=base, best=min, ceiling=ceiling
        ),
        lambda size: _height(size, series),
    )


def _points(line: Series, values: Values) -> list[Value]:
    return [value for _, group in line.points if (value := values(group))]


def _ceiling(base: float, losses: Sequence[float]) -> float | None:
    """Return the end of an axis of losses a little above that of the base; None where no loss is beyond it."""
    end = base + 0.25 * (base - min(losses))
    return end if min(losses) < base and max(losses) > end else None


def _scores(claims: Claims, scale: Scale) -> tuple[Values, float | None]:
    """Return the scores with their bars, and the score of the base: bars of gains over it where they are known."""
    base = claims.contest.base if claims.against_base else None
    level = scale.factor * claims.contest.value(base) if base else None
    gains = {bar.group.label: bar for bar in bars_of(claims, scale)} if base else {}
    sign = 1 if scale.higher_is_better else -1

    def value(group: Group) -> Value | None:
        estimate = group.score(claims.contest.measure) if group.ok else None
        if estimate is None:
            return None
        bar = gains.get(group.label)
        if bar and bar.interval and level is not None:
            low, high = sorted(level + sign * end for end in bar.interval)
            return Value(scale.factor * estimate.value, (low, high))
        ends = _own_interval(group, claims.contest) if level is None else None
        drawn = (scale.factor * ends[0], scale.factor * ends[1]) if ends else None
        return Value(scale.factor * estimate.value, drawn)

    return value, level


def _own_interval(group: Group, contest: MetricComparison) -> Interval | None:
    """Return the interval of a group's score; None where its items are not known or nothing varies."""
    from harness.stats import score_interval

    table = aligned([group], contest.measure)
    if table is None:
        return None
    return score_interval(table.values[group.label], weights=table.weights, clusters=table.clusters)


def _errors(quality: Quality, scale: Scale) -> Values:
    def value(group: Group) -> Value | None:
        estimate = quality.of(group)
        if estimate is None:
            return None
        center, error = scale.factor * estimate.value, scale.factor * (estimate.standard_error or 0.0)
        return Value(center, (center - error, center + error) if error else None)

    return value


def _ordered(series: Sequence[Series], values: Values, scale: Scale) -> list[Series]:
    """Return the series of two points and more, by their best one; points without a number are left out."""
    cut = [Series(line.name, tuple(p for p in line.points if values(p[1])), line.failed) for line in series]
    sign = -1 if scale.higher_is_better else 1
    scores = {id(line): min(sign * value.value for _, g in line.points if (value := values(g)))
              for line in cut if len(line.points) > 1}  # fmt: skip
    return sorted((line for line in cut if id(line) in scores), key=lambda line: scores[id(line)])


def _pale(series: Sequence[Series]) -> str:
    return f" Colored: the best {MOST_COLORED} of {len(series)} lines." if len(series) > MOST_COLORED + 2 else ""


def _height(size: Size, series: Sequence[Series]) -> float:
    """Return inches that leave room for the legend, whose names share a line where they fit."""
    entries = min(len(series), MOST_COLORED + 2)
    longest = max(len(drawable(curve.name)) for curve in series[:entries])
    per_line = max(1, int(size.inches * _CHARACTERS / size.text) // (longest + _SAMPLE))
    return (2.15 if size.inches < 5 else 2.9) + 0.14 * -(-entries // min(per_line, 2 if size.inches < 5 else 5))


def _draw(
    sheet: Sheet, series: Sequence[Series], values: Values, y_title: str, *, x_title: str, base: float | None = None,
    best: Callable[..., Any] | None = None, ceiling: float | None = None,
) -> None:  # fmt: skip
    [axes] = sheet.axes()
    colored = range(len(series) if len(series) <= MOST_COLORED + 2 else MOST_COLORED)
    handles, styles = [], lines_of([method_of(curve.first) for curve in series])
    for place, curve in enumerate(series):
        style = styles[place] if place in colored else _PALE
        dodge = (place - (len(series) - 1) / 2) * DODGE if len(series) <= MOST_COLORED else 0.0
        line = _line(sheet, axes, curve, values, style, dodge, best, ceiling)
        if place in colored:
            handles.append((line, drawable(curve.name)))
    if base is not None:
        handles.append((base_line(axes.axhline, base), "base"))
    rates = sorted({value for line in series for value in (*(x for x, _ in line.points), *line.failed)})
    if spans_decades(rates):
        logarithmic(axes.xaxis, values=rates if len(rates) <= MOST_TICKS else ())
    elif len(rates) <= MOST_TICKS:
        axes.set_xticks(rates, [f"{rate:g}" for rate in rates])
    if ceiling is not None:
        places = [place for curve in series for place in _points(curve, values)]
        lowest = min(min(place.interval or (place.value,)) for place in places)
        axes.set_ylim(lowest - 0.05 * (ceiling - lowest), ceiling)
    amounts(axes.yaxis, 6)
    axes.margins(x=0.06)
    axes.set_xlabel(x_title)
    axes.set_ylabel(sheet.wrapped(y_title, vertical=True))
    sheet.legend(*zip(*handles, strict=True))


def _line(
    sheet: Sheet, axes: Any, series: Series, values: Values, style: dict[str, Any], dodge: float, best: Any,
    ceiling: float | None,
) -> Any:  # fmt: skip
    """Draw a series, and return its line; with `best`, its best point alone is filled. Bars end below the `ceiling`."""
    from matplotlib.transforms import ScaledTranslation

    moved = axes.transData + ScaledTranslation(dodge / 72, 0, axes.figure.dpi_scale_trans)
    points = [(x, value) for x, group in series.points if (value := values(group))]
    drawn = axes.plot([x for x, _ in points], [value.value for _, value in points], **style)
    hollow = best is not None and len(points) > 1
    marks = {key: style[key] for key in ("color", "marker")} | {"linestyle": "none"}
    chosen = best(points, key=lambda point: point[1].value) if hollow else None
    for x, value in points:
        if value.interval and (ceiling is None or value.value <= ceiling):
            drawn += axes.plot([x, x], value.interval, color=style["color"], linewidth=0.8, zorder=1.5)
        face = {"markerfacecolor": "white"} if hollow and (x, value) != chosen else {}
        [mark] = axes.plot(x, value.value, **marks, **face, zorder=3)
        drawn.append(mark)
        ends = f" ({value.interval[0]:.4g} to {value.interval[1]:.4g})" if value.interval else ""
        sheet.name(mark, f"{series.name}: {x:g}, {value.value:.4g}{ends}")
    for artist in drawn:
        artist.set_transform(moved)  # after the limits of the axes, which follow from the data
    for x in series.failed:
        axes.plot(x, 0.97, marker="x", color=style["color"], transform=axes.get_xaxis_transform(), linestyle="none")
    return drawn[0]
