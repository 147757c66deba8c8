"""Figure of the peak memory of a run: the part held when training began, and the part that training added."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import MEBIBYTE, mean
from harness.report.figures.style import BASE_COLOR, COLORS, HATCHES, Drawn, drawable, drawing, room

STEM = "memory"
MOST_BARS = 60


def make(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw it where the phases of a training run have peaks, for as many methods as a page holds."""
    known = [(group, parts) for group in groups if group.trained and (parts := _parts(group))]
    if not known:
        return None
    lost = [
        (f"{group.label}, seed {row.seed}", row.current.peak_memory_bytes / MEBIBYTE)
        for group in groups
        for row in group.failed
        if row.status == "oom" and row.current and row.current.peak_memory_bytes
    ]
    lost = lost[: MOST_BARS // 2]
    shown = known[: MOST_BARS - len(lost)]
    height = 0.95 + 0.2 * max(3, len(shown) + len(lost))
    with drawing(folder, STEM, height) as figure:
        axes = figure.subplots()
        room(figure, 0, height, left=1.9, bottom=0.45, top=0.45)
        _bars(axes, [parts for _, parts in shown])
        _crosses(axes, [peak for _, peak in lost], len(shown))
        names = [*(group.label for group, _ in shown), *(name for name, _ in lost)]
        labels = [drawable(name, 32) for name in names]
        axes.set_yticks(range(len(labels)), labels)
        axes.set_ylim(len(labels) - 0.4, -0.6)
        axes.grid(axis="y", visible=False)
        axes.margins(x=0.1)
        axes.set_xlabel("Peak memory of training, MiB")
        figure.legend(loc="upper left", ncols=3, bbox_to_anchor=(1.85 / 7, 1), borderaxespad=0.2)
    rest = f" The first {len(shown)} of {len(known)} methods." if len(known) > len(shown) else ""
    crosses = " Crosses: what had been used when memory ran out." if lost else ""
    return Drawn(
        STEM,
        "Memory held when training began, and added by training",
        "Held when training began: the weights, the adapter and the data. Added by training: gradients, optimizer "
        f"state and activations, at the highest moment. Means over the seeds.{crosses}{rest}",
    )


def _bars(axes: Any, parts: Sequence[tuple[float, float]]) -> None:
    places = range(len(parts))
    held, added = ([one[part] / MEBIBYTE for one in parts] for part in (0, 1))
    edge = {"edgecolor": "white", "linewidth": 0.5, "height": 0.72}
    axes.barh(places, held, color=COLORS[0], label="held when training began", **edge)
    axes.barh(places, added, left=held, color=COLORS[4], hatch=HATCHES[1], label="added by training", **edge)
    for place, total in enumerate(map(sum, zip(held, added, strict=True))):
        _say(axes, f"{total:,.0f}", (total, place))


def _crosses(axes: Any, peaks: Sequence[float], first: int) -> None:
    """Draw the highest memory of runs that did not fit, from the given place on."""
    places = range(first, first + len(peaks))
    if peaks:
        axes.plot(peaks, places, linestyle="none", marker="x", markersize=7, color=COLORS[1], label="out of memory")
    for place, peak in zip(places, peaks, strict=True):
        _say(axes, f"OOM at {peak:,.0f}", (peak, place))


def _say(axes: Any, text: str, where: tuple[float, int]) -> None:
    axes.annotate(text, where, xytext=(5, 0), textcoords="offset points", va="center", fontsize=7, color=BASE_COLOR)


def _parts(group: Group) -> tuple[float, float] | None:
    """Bytes held when training began and bytes added at its peak; None where a seed has no such peaks."""
    each = [_of(row) for row in group.rows]
    held = mean(None if one is None else one[0] for one in each)
    added = mean(None if one is None else one[1] for one in each)
    return None if held is None or added is None else (held, added)


def _of(row: Row) -> tuple[float, float] | None:
    """Return the bytes held when training began, and the bytes added at its peak; None where they are unknown.

    CPU peaks are relative to the memory before the phase, CUDA peaks are absolute (`record.Phase`).
    """
    phases = row.current.phases if row.current else {}
    load, train = phases.get("load"), phases.get("train")
    if load is None or train is None or train.peak_memory_bytes is None:
        return None
    if train.peak_reserved_bytes is not None:
        held = load.peak_memory_bytes
        return None if held is None else (held, max(0.0, train.peak_memory_bytes - held))
    if load.resident_bytes is None or train.resident_bytes is None:
        return None
    return max(0.0, train.resident_bytes - load.resident_bytes), train.peak_memory_bytes
