"""The page of the updates' shapes: how much each method changed the weights and in which directions. A pure function.

Two methods with one score may differ in their updates; the measurements of `harness.adapter info` show it.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from statistics import mean, median
from typing import Any

from harness.records.record import UpdateRecord, WeightUpdate, write_text
from harness.records.untrusted import escaped
from harness.report.data.groups import Group
from harness.report.display import DASH, decimals, quantity, table
from harness.report.figures.style import (
    COLORS,
    LINES,
    MARKERS,
    drawable,
    drawing,
    legend_below,
    legend_rows,
    remove,
    room,
)

PAGE = "update.md"
_FIGURE = "update"
_LAYER = re.compile(r"\.(\d+)\.")
_PANELS = (
    ("relative_norm", "Norm of the change over that of the weight"),
    ("effective_rank", "Effective rank"),
    ("alignment_left", "Alignment with the weight's top left vectors"),
    ("intruder_dimensions", "Intruder dimensions per matrix"),
)


def write(groups: Sequence[Group], folder: Path) -> Path | None:
    """Write update.md with its figure. Where no update was measured, delete old ones instead."""
    measured = [group for group in groups if group.trained and _updates(group)]
    drawn = [group for group in measured if any(_layers(group, name) for name, _ in _PANELS)]
    if drawn:
        _draw(drawn, folder / "figures")
    else:
        remove(folder / "figures", _FIGURE)
    if not measured:
        (folder / PAGE).unlink(missing_ok=True)
        return None
    missing = [group for group in groups if group.trained and not _updates(group)]
    return write_text(page(measured, missing, figure=bool(drawn)), folder / PAGE)


def page(measured: Sequence[Group], missing: Sequence[Group], figure: bool) -> str:
    """`update.md` for the groups that were measured."""
    parts = [
        "# The shape of the updates",
        "What each method added to the base's weights: D = tuned weight - weight, per matrix; medians over the "
        "matrices, averaged over the seeds. " + _settings(measured),
        _overall(measured),
        *(_reasons(measured)),
        *(["Not measured: " + ", ".join(escaped(group.label) for group in missing)] if missing else []),
        *(
            [f"![Norm, effective rank, alignment and intruder dimensions by layer](figures/{_FIGURE}.png)"]
            if figure
            else []
        ),
        "## By kind of layer",
        _by_kind(measured),
        "## What the columns mean",
        *_MEANING,
    ]
    return "\n\n".join(part for part in parts if part) + "\n"


_HEADER = (
    "Matrices", "Relative norm", "Effective rank", "of", "Stable rank", "Alignment left", "right", "Intruders",
)  # fmt: skip
_MEANING = (
    "Relative norm: the Frobenius norm of D over that of the weight. Effective rank: the exponential of the entropy of "
    "D's normalized singular values (Roy and Vetterli 2007), at most the number after it. Stable rank: the squared "
    "Frobenius norm over the squared spectral norm.",
    "Alignment: how much of the span of D's top singular vectors lies in the span of as many of the weight's (Hu et "
    "al. 2021, arXiv 2106.09685, section 7.3): 1 is all of it, chance gives their number over the side's length.",
    "Intruders: top left singular vectors of the tuned weight that resemble none of the weight's (Shuttleworth et al. "
    "2024, arXiv 2410.21228); summed over the matrices above, per kind their mean per matrix below.",
)


def _updates(group: Group) -> list[UpdateRecord]:
    return [row.update for row in group.rows if row.update is not None]


def _matrices(update: UpdateRecord) -> dict[str, WeightUpdate]:
    return {name: one for name, one in update.weights.items() if one.effective_rank is not None}


def _settings(groups: Sequence[Group]) -> str:
    found = {(u.num_top, u.epsilon) for group in groups for u in _updates(group)}
    return " ".join(
        f"Looked at: the top {top} singular vectors; an intruder's cosine similarity is below {epsilon}."
        for top, epsilon in sorted(found)
    )


def _overall(groups: Sequence[Group]) -> str:
    lines = []
    for group in groups:
        seeds = [[*_matrices(update).values()] for update in _updates(group)]
        if any(seeds):
            total = mean(sum(one.intruder_dimensions or 0 for one in seed) for seed in seeds)
            lines.append((escaped(group.label), *_cells([seed for seed in seeds if seed]), quantity(total)))
    return table(("Method", *_HEADER), lines) if lines else ""


def _reasons(groups: Sequence[Group]) -> list[str]:
    said = [
        f"- {escaped(group.label)}: {escaped(u.reason)}" for group in groups for u in _updates(group)[:1] if u.reason
    ]
    vectors = [
        f"- {escaped(group.label)}: only vectors changed, relative norm {_vectors(group)}"
        for group in groups
        if not any(_matrices(u) for u in _updates(group)) and any(u.weights for u in _updates(group))
    ]
    return ["\n".join([*said, *vectors])] if said or vectors else []


def _vectors(group: Group) -> str:
    found = [one.relative_norm for u in _updates(group) for one in u.weights.values() if one.relative_norm is not None]
    return f"{median(found):.3g}" if found else DASH


def _by_kind(groups: Sequence[Group]) -> str:
    kinds = list(dict.fromkeys(_kind(name) for group in groups for u in _updates(group) for name in _matrices(u)))
    lines = []
    for kind in kinds:
        for group in groups:
            seeds = [[one for name, one in _matrices(u).items() if _kind(name) == kind] for u in _updates(group)]
            if all(seeds):
                each = mean(mean(one.intruder_dimensions or 0 for one in seed) for seed in seeds)
                lines.append((escaped(kind), escaped(group.label), *_cells(seeds), decimals(each, 2)))
    return table(("Layer", "Method", *_HEADER), lines, text=("Method",)) if lines else "No matrix changed."


def _kind(name: str) -> str:
    """self_attn.q_proj of model.layers.3.self_attn.q_proj.weight: what follows the layer's number."""
    return _LAYER.split(name)[-1].removesuffix(".weight")


def _cells(seeds: Sequence[Sequence[WeightUpdate]]) -> tuple[str, ...]:
    """Number of matrices, then the medians; the number after the effective rank is the most that it could be."""
    most = median(min(one.shape) for one in seeds[0])

    def middle(name: str) -> float | None:
        found = [[v for one in seed if (v := getattr(one, name)) is not None] for seed in seeds]
        return mean(median(values) for values in found if values) if any(found) else None

    norm = middle("relative_norm")
    return (
        str(len(seeds[0])),
        DASH if norm is None else f"{norm:.3g}",
        quantity(middle("effective_rank")),
        quantity(most),
        quantity(middle("stable_rank")),
        *(
            DASH if value is None else decimals(value, 3)
            for value in map(middle, ("alignment_left", "alignment_right"))
        ),
    )


def _layers(group: Group, name: str) -> dict[int, float]:
    """Layer number -> the mean over its matrices and the seeds."""
    found: dict[int, list[float]] = {}
    for update in _updates(group):
        for weight, one in _matrices(update).items():
            place, value = _LAYER.search(weight), getattr(one, name)
            if place and value is not None:
                found.setdefault(int(place.group(1)), []).append(value)
    return {layer: mean(found[layer]) for layer in sorted(found)}


def _draw(groups: Sequence[Group], folder: Path) -> None:
    height = 4.5 + 0.18 * legend_rows(len(groups))
    with drawing(folder, _FIGURE, height) as figure:
        panels = figure.subplots(2, 2).ravel()
        room(figure, len(groups), height, wspace=0.2)
        for axes, (name, title) in zip(panels, _PANELS, strict=True):
            _panel(axes, groups, name)
            axes.set_title(title)
            axes.set_xlabel("Layer")
        legend_below(figure, panels[0], len(groups))


def _panel(axes: Any, groups: Sequence[Group], name: str) -> None:
    from matplotlib.ticker import MaxNLocator

    for index, group in enumerate(groups):
        layers = _layers(group, name)
        label = drawable(group.label)
        style = {"color": COLORS[index % len(COLORS)], "linestyle": LINES[index % len(LINES)]}
        axes.plot(
            [*layers], [*layers.values()], label=label, marker=MARKERS[index % len(MARKERS)], markersize=3,
            linewidth=1.2, **style,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
