"""Figure of the peak memory of a run: the part held when training began, and the part that training added."""

from __future__ import annotations

from collections.abc import Sequence

from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import GIBIBYTE, mean
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.style import BASE_COLOR, name_of

MOST_BARS = 40
_STATIC, _INCREASE = "#5B6673", "#BCC5CE"  # gray: colors stand for methods
Parts = tuple[Group, float, float]  # GiB held, GiB added


def figure(groups: Sequence[Group]) -> Figure | None:
    """Return the figure; None where no training run has the peaks of its phases."""
    parts = [(group, *split) for group in groups if group.trained and (split := _parts(group))]
    if not parts:
        return None
    lost = [
        (f"{name_of(group, 20)}, seed {row.seed}", row.current.peak_memory_bytes / GIBIBYTE)
        for group in groups
        for row in group.failed
        if row.status == "oom" and row.current and row.current.peak_memory_bytes
    ][: MOST_BARS // 2]
    shown = sorted(parts, key=lambda part: part[1] + part[2])[: MOST_BARS - len(lost)]
    rest = f" The smallest {len(shown)} of {len(parts)} methods." if len(parts) > len(shown) else ""
    crosses = " Crosses: memory in use when it ran out." if lost else ""
    return Figure(
        "memory",
        "Peak memory of training",
        "Static memory: weights, adapter and data when training began; peak increase: gradients, optimizer states and "
        f"activations. Means over the seeds.{crosses}{rest}",
        lambda sheet: _draw(sheet, shown, lost),
        lambda size: 0.8 + 0.165 * size.text / 7 * max(3, len(shown) + len(lost)),
    )


def _draw(sheet: Sheet, parts: Sequence[Parts], lost: Sequence[tuple[str, float]]) -> None:
    [axes] = sheet.axes()
    places = range(len(parts))
    edge = {"edgecolor": "white", "linewidth": 0.5, "height": 0.72}
    held, added = [part[1] for part in parts], [part[2] for part in parts]
    bars = axes.barh(places, held, color=_STATIC, label="static", **edge)
    axes.barh(places, added, left=held, color=_INCREASE, hatch="////", label="peak increase", **edge)
    for bar, (group, static, increase) in zip(bars, parts, strict=True):
        sheet.name(bar, f"{group.name}: {static:.2f} GiB static, {increase:.2f} GiB added by training")
    ends = [(static + increase, f"{static + increase:.2f}") for _, static, increase in parts]
    if lost:
        rows = range(len(parts), len(parts) + len(lost))
        axes.plot([peak for _, peak in lost], rows, linestyle="none", marker="x", markersize=6, color="black",
                  label="out of memory")  # fmt: skip
        ends += [(peak, f"OOM at {peak:.2f}") for _, peak in lost]
    axes.margins(x=0.16 if sheet.narrow else 0.08)
    for place, (end, text) in enumerate(ends):
        axes.annotate(text, (end, place), xytext=(5, 0), textcoords="offset points", va="center", color=BASE_COLOR)
    names = [*(name_of(group, 20 if sheet.narrow else 34) for group, *_ in parts), *(name for name, _ in lost)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Peak memory of training (GiB)")
    sheet.legend(*axes.get_legend_handles_labels())


def _parts(group: Group) -> tuple[float, float] | None:
    """Return the GiB held when training began and those added at its peak; None where a seed has no such peaks."""
    memory = [_of(row) for row in group.rows]
    held = mean(None if part is None else part[0] for part in memory)
    added = mean(None if part is None else part[1] for part in memory)
    return None if held is None or added is None else (held / GIBIBYTE, added / GIBIBYTE)


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
