"""Validation loss against the learning rate: how much a method's score depends on the right choice of it."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.analysis.axes import Quality, qualities
from harness.report.data.groups import Group
from harness.report.figures.style import (
    Drawn,
    drawable,
    drawing,
    legend_below,
    legend_rows,
    logarithmic,
    room,
    style_of,
)

STEM = "sensitivity"
_RATE = re.compile(r"\s?\blr=\S+")


@dataclass(frozen=True)
class Series:
    """The groups of one recipe but for its learning rate, by rate; `bad` are the rates that gave no result."""

    name: str
    groups: tuple[tuple[float, Group], ...]
    bad: tuple[float, ...]


def make(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw it where a method has results with two learning rates or more."""
    quality = next(iter(qualities(groups, ("validation",))), None)
    every = rate_series(groups)
    series = [one for one in every if quality and sum(quality.of(group) is not None for _, group in one.groups) > 1]
    if quality is None or not series:
        return None
    height = 3.1 + 0.18 * legend_rows(len(series))
    with drawing(folder, STEM, height) as figure:
        axes = figure.subplots()
        room(figure, len(series), height)
        for index, one in enumerate(series):
            _line(axes, one, quality, style_of(index))
        logarithmic(axes.xaxis)
        axes.set_xlabel("Learning rate")
        axes.set_ylabel("Nats per answer token")
        axes.set_title(drawable(quality.title, 80))
        _failures(axes, series)
        legend_below(figure, axes, len(series))
    failed = any(one.bad for one in series)
    return Drawn(
        STEM,
        "Validation loss against the learning rate",
        "Means over the seeds, with one standard error; a filled marker is the best rate of its method, and one at an "
        "end of its line says that the grid was too narrow."
        + (" Crosses at the top are rates whose run did not end well." if failed else ""),
    )


def rate_series(groups: Sequence[Group]) -> list[Series]:
    """The groups that differ in the learning rate alone, together."""
    found: dict[str, list[tuple[float, Group]]] = {}
    for group in groups:
        recipe = group.first.record.recipe if group.first.record else {}
        rate = (recipe.get("train") or {}).get("lr")
        if rate is not None and group.first.status in ("ok", "oom", "diverged", "failed"):
            found.setdefault(_without_rate(recipe), []).append((float(rate), group))
    return [
        Series(
            name=_RATE.sub("", members[0][1].label).strip(),
            groups=tuple(sorted(((rate, group) for rate, group in members if group.ok), key=lambda one: one[0])),
            bad=tuple(sorted({rate for rate, group in members if not group.ok})),
        )
        for members in found.values()
    ]


def _without_rate(recipe: dict[str, Any]) -> str:
    train = {key: value for key, value in (recipe.get("train") or {}).items() if key != "lr"}
    method = {key: value for key, value in (recipe.get("method") or {}).items() if key != "lr"}
    return json.dumps({**recipe, "train": train, "method": method}, sort_keys=True)


def _line(axes: Any, series: Series, quality: Quality, style: dict[str, Any]) -> None:
    points = [(rate, found) for rate, group in series.groups if (found := quality.of(group))]
    if not points:
        return
    rates, values = [rate for rate, _ in points], [found.value for _, found in points]
    errors = [found.standard_error or 0.0 for _, found in points]
    axes.errorbar(
        rates, values, yerr=errors, label=drawable(series.name), markersize=4, linewidth=1.2, elinewidth=0.7,
        capsize=2, markerfacecolor="white", **style,
    )  # fmt: skip
    best = min(range(len(points)), key=values.__getitem__)
    axes.plot(
        rates[best],
        values[best],
        marker=style["marker"],
        color=style["color"],
        markersize=6,
        linestyle="none",
        zorder=3,
    )


def _failures(axes: Any, series: Sequence[Series]) -> None:
    for index, one in enumerate(series):
        for rate in one.bad:
            axes.plot(
                rate, 0.97, marker="x", color=style_of(index)["color"], transform=axes.get_xaxis_transform(),
                linestyle="none", markersize=6,
            )  # fmt: skip
