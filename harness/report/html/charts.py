"""The page's charts as Vega-Lite, through Altair: frontiers with axes to choose, and learning curves."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness.records.record import ExternalRecord
from harness.records.untrusted import printable
from harness.report.analysis.axes import COSTS, Cost, Quality, qualities
from harness.report.data.groups import Group, Measure
from harness.report.figures.curves import by_step, curves_left_out, drawn_curves, training_curve
from harness.report.figures.style import COLORS
from harness.report.html import others
from harness.report.pages.summary import trainings

SHAPES = ("circle", "square", "triangle-up", "diamond", "triangle-down", "cross", "triangle-right")
MOST_STEPS = 200  # points of a learning curve; a longer one is thinned
_KINDS = ("validation", "training")


def frontier(
    groups: Sequence[Group], external: Sequence[ExternalRecord] = (), asked_for: Measure | None = None
) -> dict[str, Any] | None:
    """Every trained group as a point; the axes are chosen with two lists. None where there is nothing to plot.

    Args:
        groups: the rows.
        external: rows of others.
        asked_for: the measure that the vertical axis shows at first; None: the first quality.
    """
    import altair

    trained = [group for group in groups if group.trained]
    asked: dict[str, Cost | Quality] = {f"c{index}": cost for index, cost in enumerate(COSTS)}
    asked |= {f"q{index}": quality for index, quality in enumerate(qualities(groups, first=asked_for))}
    axes = {key: axis for key, one in asked.items() if _known(axis := _axis_of(one, groups))}
    if not trained or len(axes) < 2:
        return None
    theirs = others.points(external, {key: asked[key] for key in axes})
    values = [*(_point(group, axes) for group in groups if group.ok), *theirs]
    keys, titles = [*axes], [title for title, _, _ in axes.values()]
    first_quality = next((key for key in keys if key.startswith("q")), keys[-1])
    x = _choice("x_axis", "Horizontal ", keys, titles, keys[0])
    y = _choice("y_axis", "Vertical ", keys, titles, first_quality)
    logarithmic = altair.param(name="log_x", bind=altair.binding_checkbox(name="Logarithmic "), value=False)
    data = _data(values, [key for key, axis in axes.items() if axis[2]])
    layers = _layers(data, [printable(group.label) for group in trained], bool(theirs))
    params = (x, y, logarithmic, *([others.choice()] if theirs else []))
    return _finished(altair.layer(*layers).add_params(*params), 380)


def _data(values: Sequence[dict[str, Any]], high: Sequence[str]) -> Any:
    """The points with the chosen axes as x and y; `high`: the axes on which more is better."""
    import altair

    return (
        altair.Chart(altair.InlineData(values=[*values]))
        .transform_calculate(
            x="log_x ? log(datum[x_axis]) / LN10 : datum[x_axis]",
            y="datum[y_axis]",
            low="datum[y_axis] - datum[y_axis + '_error']",
            high="datum[y_axis] + datum[y_axis + '_error']",
            rise=f"indexof({[*high]!r}, y_axis) < 0 ? -datum[y_axis] : datum[y_axis]",
            right=f"indexof({[*high]!r}, x_axis) < 0 ? datum[x_axis] : -datum[x_axis]",
        )
        .transform_filter("isValid(datum[y_axis])")
    )


def curves(groups: Sequence[Group]) -> dict[str, Any] | None:
    """Validation and training loss by step, one panel each; None where nothing was trained."""
    import altair

    trained = [group for group in groups if group.trained and trainings(group)]
    shown = drawn_curves(trained)
    values = [point for group in shown for point in _curve(group)]
    if not values:
        return None
    data = altair.Chart(altair.InlineData(values=values)).mark_line(point={"size": 30}, interpolate="linear")
    chart = data.encode(
        x=altair.X("step:Q", title="Optimizer step"),
        y=altair.Y("loss:Q", title="Nats per token", scale=altair.Scale(zero=False)),
        color=_color([printable(group.label) for group in shown]),
        strokeDash=altair.StrokeDash(
            "kind:O", scale=altair.Scale(domain=[*_KINDS], range=[[1, 0], [4, 2]]), legend=None
        ),
        opacity=altair.Opacity("kind:O", scale=altair.Scale(domain=[*_KINDS], range=[1, 0.45]), legend=None),
        tooltip=[
            altair.Tooltip("label:N", title="Method"),
            altair.Tooltip("kind:N", title="Loss"),
            altair.Tooltip("step:Q", title="Step"),
            altair.Tooltip("loss:Q", title="Nats", format=".4f"),
        ],
    )  # fmt: skip
    return _finished(
        chart.properties(title=curves_left_out(trained).strip()) if len(shown) < len(trained) else chart, 300
    )


_Axis = tuple[str, dict[str, tuple[float | None, float | None]], bool]  # title, label -> value and error, high is good


def _axis_of(one: Cost | Quality, groups: Sequence[Group]) -> _Axis:
    good = [group for group in groups if group.ok]
    if isinstance(one, Cost):
        return one.title, {group.label: (one.of(group), None) for group in good}, False
    return printable(one.title), {group.label: _value(one, group) for group in good}, one.higher_is_better


def _known(axis: _Axis) -> bool:
    return any(value is not None for value, _ in axis[1].values())


def _value(quality: Quality, group: Group) -> tuple[float | None, float | None]:
    found = quality.of(group)
    return (found.value, found.standard_error) if found else (None, None)


def _point(group: Group, axes: dict[str, _Axis]) -> dict[str, Any]:
    point: dict[str, Any] = {
        "label": printable(group.label), "seeds": len(group.rows), "base": group.first.is_base
    }  # fmt: skip
    for key, (_, values, _) in axes.items():
        point[key], error = values[group.label]
        if error is not None:
            point[f"{key}_error"] = error
    return point


def _choice(name: str, shown: str, keys: Sequence[str], titles: Sequence[str], value: str) -> Any:
    import altair

    return altair.param(
        name=name, value=value, bind=altair.binding_select(options=[*keys], labels=[*titles], name=shown)
    )


def _color(labels: Sequence[str]) -> Any:
    import altair

    # without black, which is hard to see on a dark page
    colors = [COLORS[:6][index % 6] for index in range(len(labels))]
    return altair.Color(
        "label:N", title="Method", scale=altair.Scale(domain=[*labels], range=colors),
        legend=altair.Legend(symbolLimit=0, labelLimit=220, columns=4, symbolOpacity=1),
    )  # fmt: skip


def _layers(data: Any, labels: Sequence[str], with_others: bool) -> list[Any]:
    """Return the layers: the base as a horizontal line, the frontier, the error bars, the points."""
    import altair

    x = altair.X("x:Q", title=None, scale=altair.Scale(zero=False, padding=24), axis=_axis())
    y = altair.Y("y:Q", title=None, scale=altair.Scale(zero=False, padding=16), axis=altair.Axis(tickCount=8))
    marks = [SHAPES[index % len(SHAPES)] for index in range(len(labels))]
    shapes = altair.Shape("label:N", title="Method", scale=altair.Scale(domain=[*labels], range=marks))
    tips = [
        altair.Tooltip("label:N", title="Method"),
        altair.Tooltip("shown_x:N", title="Horizontal"),
        altair.Tooltip("shown_y:N", title="Vertical"),
        altair.Tooltip("seeds:Q", title="Seeds"),
    ]
    told = data.transform_calculate(
        shown_x="format(datum[x_axis], datum[x_axis] < 100 ? '.4~f' : ',.0f')",
        shown_y="format(datum[y_axis], '.4~f') + (isValid(datum[y_axis + '_error']) ? ' \\u00b1 ' + "
        "format(datum[y_axis + '_error'], '.4~f') : '')",
    )
    kept = f" && ({others.SHOWN} || !datum.external)" if with_others else ""
    points = told.transform_filter(f"!datum.base && isValid(datum[x_axis]){kept}")
    best = (
        points.transform_filter("!datum.external")
        .transform_window(
            best="max(rise)", sort=[altair.SortField("right"), altair.SortField("rise", order="descending")],
            frame=[None, 0],
        )
        .transform_filter("datum.rise >= datum.best")
        .mark_line(color="#888888", strokeWidth=1.5, interpolate="step-after")
        .encode(x=x, y=y, order="right:Q")
    )  # fmt: skip
    base = told.transform_filter("datum.base")
    return [
        base.mark_rule(strokeDash=[5, 4], color="#888888").encode(y=y, tooltip=tips[::2]),
        best,
        points.transform_filter("isValid(datum.low)").mark_rule(strokeWidth=1.2, opacity=0.6).encode(
            x=x, y=altair.Y("low:Q", title=None), y2="high:Q", color=others.apart(others.COLOR, _color(labels))
        ),
        points.mark_point(filled=True, opacity=1).encode(
            x=x, y=y, color=others.apart(others.COLOR, _color(labels)), shape=others.apart(others.CROSS, shapes),
            size=others.apart(45, altair.value(110)), stroke=others.apart(others.COLOR, altair.value("white")),
            strokeWidth=others.apart(1.5, altair.value(0.8)), tooltip=tips,
        ),
    ]  # fmt: skip


def _axis() -> Any:
    import altair

    value = "(log_x ? pow(10, datum.value) : datum.value)"
    return altair.Axis(labelExpr=f"format({value}, {value} < 10000 ? ',.4~g' : '.3~s')", tickCount=8)


def _curve(group: Group) -> list[dict[str, Any]]:
    label = printable(group.label)
    mean = training_curve(group)
    every = max(1, len(mean) // MOST_STEPS)
    steps = [step for step in range(len(mean)) if step % every == 0 and mean[step] == mean[step]]
    training = [
        {"label": label, "kind": "training", "step": step + 1, "loss": round(float(mean[step]), 5)} for step in steps
    ]
    validation = [
        {"label": label, "kind": "validation", "step": step, "loss": round(sum(losses) / len(losses), 5)}
        for step, losses in by_step(group).items()
    ]
    return [*validation, *training]


def _finished(chart: Any, height: int) -> dict[str, Any]:
    """The specification, as wide as the page; colors of text and lines are left to the page's style sheet."""
    settings = chart.properties(width="container", height=height, background="transparent").configure_view(stroke=None)
    found: dict[str, Any] = settings.configure_legend(orient="bottom", symbolSize=80).to_dict()
    return found
