"""Heat maps: each method's place on each task, and a loss over LoRA's rank and one other setting.

Every cell carries its number, so that nothing is read from a shade alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from harness.report.analysis.axes import qualities
from harness.report.analysis.facts import method_settings
from harness.report.data.groups import Group
from harness.report.display import short
from harness.report.figures.style import Drawn, drawable, drawing, room

TASKS_STEM, RANK_STEM = "places", "rank_heat_map"
MOST_ROWS, MOST_COLUMNS, MOST_PANELS = 60, 12, 3
_SECOND = ("target", "alpha / r", "lr")  # what a rank is most often crossed with, in the order of preference


@dataclass(frozen=True)
class Grid:
    """Cells of a heat map; None is a cell without a number."""

    title: str
    rows: tuple[str, ...]
    columns: tuple[str, ...]
    cells: tuple[tuple[float | None, ...], ...]
    row_title: str = ""
    column_title: str = ""


def make_tasks(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw the places of two or more methods on two or more tasks."""
    grid = places(groups)
    if grid is None:
        return None
    height = 1.35 + 0.2 * max(2, len(grid.rows))
    with drawing(folder, TASKS_STEM, height) as figure:
        axes = figure.subplots()
        room(figure, 0, height, left=1.9, bottom=0.15, top=1.0)
        _heat(axes, grid, digits=0)
        axes.xaxis.tick_top()
        axes.tick_params(axis="x", labelrotation=30)
        for label in axes.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    return Drawn(
        TASKS_STEM,
        "Each method's place on each task",
        "1 is the best mean; equal scores share a place; the last column is the mean of the places. Places follow the "
        "means alone: whether two methods can be told apart is in the tables.",
    )


def make_rank(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw the loss over the rank and another setting where a method has a grid of the two."""
    grids = rank_grids(groups)[:MOST_PANELS]
    if not grids:
        return None
    height = 1.2 + 0.24 * max(3, *(len(grid.rows) for grid in grids))
    with drawing(folder, RANK_STEM, height) as figure:
        panels = figure.subplots(1, len(grids), squeeze=False).ravel()
        room(figure, 0, height, left=0.9, wspace=0.6)
        for axes, grid in zip(panels, grids, strict=True):
            _heat(axes, grid, digits=4)
            axes.set_title(grid.title)
            axes.set_xlabel(grid.column_title)
            axes.set_ylabel(grid.row_title)
    return Drawn(
        RANK_STEM,
        "Validation loss over the rank and another setting",
        "Mean over the seeds and over whatever else varies; lower is better, the lowest is bold; an empty cell "
        "was not run or did not end well.",
    )


def places(groups: Sequence[Group]) -> Grid | None:
    """Return the place of every method on every task that all of them have, and its mean place."""
    trained = [group for group in groups if group.trained]
    asked = [one for one in qualities(groups, ("target", "test", "retention")) if all(map(one.of, trained))]
    if len(trained) < 2 or len(asked) < 2 or len(trained) > MOST_ROWS:
        return None
    columns = []
    for one in asked[:MOST_COLUMNS]:
        values = [found.value * (-1 if one.higher_is_better else 1) for group in trained if (found := one.of(group))]
        columns.append([1 + sum(v < own for v in values) + (values.count(own) - 1) / 2 for own in values])
    averages = [sum(line) / len(line) for line in zip(*columns, strict=True)]
    return Grid(
        title="",
        rows=tuple(drawable(group.label, 32) for group in trained),
        columns=(*(drawable(one.title.partition(" (")[0], 26) for one in asked[:MOST_COLUMNS]), "mean"),
        cells=tuple(zip(*columns, averages, strict=True)),
    )


def rank_grids(groups: Sequence[Group]) -> list[Grid]:
    """One grid of validation losses per method whose rank was crossed with another setting."""
    quality = next(iter(qualities(groups, ("validation",))), None)
    by_method: dict[str, list[tuple[dict[str, Any], float]]] = {}
    for group in groups if quality else ():
        settings, found = _settings(group), quality.of(group) if quality and group.trained else None
        if found and "r" in settings:
            by_method.setdefault(group.first.method, []).append((settings, found.value))
    grids = [_rank_grid(method, cells) for method, cells in by_method.items()]
    return [grid for grid in grids if grid]


def _settings(group: Group) -> dict[str, Any]:
    settings = method_settings(group)
    if settings.get("r") and settings.get("lora_alpha"):
        settings["alpha / r"] = settings["lora_alpha"] / settings["r"]
    return settings


def _rank_grid(method: str, cells: Sequence[tuple[dict[str, Any], float]]) -> Grid | None:
    """The grid over r and the first setting that is crossed with it, if most of its cells are there."""
    ranks = sorted({settings["r"] for settings, _ in cells})
    keys = dict.fromkeys((*_SECOND, *cells[0][0]))
    for key in (key for key in keys if key not in ("r", "lora_alpha")):
        values = list(dict.fromkeys(short(settings.get(key)) for settings, _ in cells))
        found: dict[tuple[Any, str], list[float]] = {}
        for settings, loss in cells:
            found.setdefault((settings["r"], short(settings.get(key))), []).append(loss)
        if len(ranks) > 1 and len(values) > 1 and len(found) > 0.6 * len(ranks) * len(values):
            lines = [[found.get((rank, value)) for value in values] for rank in ranks]
            means = tuple(tuple(sum(one) / len(one) if one else None for one in line) for line in lines)
            title, columns = drawable(method), tuple(drawable(value, 14) for value in values)
            return Grid(title, tuple(map(str, ranks)), columns, means, "Rank r", drawable(key))
    return None


def _heat(axes: Any, grid: Grid, digits: int) -> None:
    import numpy as np

    array = np.array([[np.nan if cell is None else cell for cell in line] for line in grid.cells])
    image = axes.imshow(array, cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(grid.columns)), grid.columns)
    axes.set_yticks(range(len(grid.rows)), grid.rows)
    axes.grid(visible=False)
    axes.tick_params(length=0)
    best = float(np.nanmin(array[:, -1])) if not digits else float(np.nanmin(array))
    for (row, column), value in np.ndenumerate(array):
        if np.isfinite(value):
            shown = f"{value:.{digits}f}" if digits or value % 1 == 0 else f"{value:.1f}"
            dark = image.norm(value) < 0.55
            marked = value == best and (digits > 0 or column == array.shape[1] - 1)
            axes.text(
                column, row, shown, ha="center", va="center", fontsize=7, color="white" if dark else "black",
                fontweight="bold" if marked else "normal",
            )  # fmt: skip
