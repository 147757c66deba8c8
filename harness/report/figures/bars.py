"""Figures with a row for each method: its gain over the base model, and its memory."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from harness.report.analysis.axes import memory, on_gpu
from harness.report.analysis.claims import Claims
from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import GIBIBYTE, mean, steady
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.style import (
    BASE_COLOR,
    FILL,
    Scale,
    base_line,
    method_of,
    name_of,
    names_of,
    point_of,
    scale_of,
)

STEM = "gain"
MOST_ROWS = 40
ROW = 0.165  # inches
MOST_BARS = 40
_STATIC, _INCREASE = "#5B6673", "#BCC5CE"  # gray: colors stand for methods
Parts = tuple[Group, float, float]  # GiB held, GiB added


@dataclass(frozen=True)
class Bar:
    """A method's gain with its simultaneous interval, in the unit of the axis; None: there is no interval."""

    group: Group
    gain: float
    interval: tuple[float, float] | None
    tied: bool  # with the best
    decided: bool = True  # whether there is a verdict about the method; too few seeds give none

    @property
    def memory(self) -> str:
        """Return the memory as text, that of the main table; "" where it is unknown."""
        used = memory(self.group)
        return "" if used is None else f"{used / GIBIBYTE:.2f} GiB"


def gain_figure(claims: Claims) -> Figure | None:
    """Return the figure; None where no method is compared with the base model, or with the best one."""
    if not claims.pairs:
        return None
    scale = scale_of(claims.contest)
    bars = bars_of(claims, scale)
    base = claims.contest.base if claims.against_base else None
    reference = "base" if base else name_of(claims.best) if claims.best else ""
    drawn = bars[:MOST_ROWS]
    remark = f" The best {len(drawn)} of {len(bars)} methods." if len(bars) > len(drawn) else ""
    hollow = " Hollow: too few seeds for a verdict about the method; the difference is one of these runs."
    undecided = "" if all(bar.decided for bar in drawn) else hollow
    tie = " Shaded: not significantly different from the best." if any(bar.tied for bar in drawn[1:]) else ""
    kind = "memory that the GPU must have" if on_gpu(bar.group for bar in drawn) else "peak memory of training"
    right = f" Right: {kind}." if any(bar.memory for bar in drawn) else ""
    return Figure(
        STEM,
        f"{_gain_title(scale, reference)}, by method",
        f"Points: difference from {reference}; bars: simultaneous 95 % confidence intervals, so that a bar clear of "
        f"the dashed line is a significant difference.{undecided}{tie}{right}{remark}",
        lambda sheet: _draw_gains(sheet, drawn, scale, claims),
        lambda size: 0.62 + ROW * size.text / 7 * max(len(drawn), 2),
        main=True,
    )


def undecided(claims: Claims) -> frozenset[str]:
    """Return the labels of the methods whose points are hollow: their difference has no verdict."""
    return frozenset(bar.group.label for bar in bars_of(claims, scale_of(claims.contest)) if not bar.decided)


def bars_of(claims: Claims, scale: Scale) -> list[Bar]:
    """Return a bar for each method that is compared with the base, or else with the best; the best first."""
    decided = {pair.a.label for pair in claims.against_best if pair.result.verdict != "no verdict"}
    tied = {pair.a.label for pair in claims.against_best if not pair.significant and pair.a.label in decided}
    tied |= {claims.best.label} if claims.best and tied else set()  # a group of one is not shaded
    bars = []
    for pair in claims.against_base or claims.against_best:
        low, high = sorted(scale.gain(end) for end in pair.result.adjusted_interval)
        interval = (low, high) if math.isfinite(low) and math.isfinite(high) else None
        gain, is_decided = scale.gain(pair.result.difference), pair.result.verdict != "no verdict"
        bars.append(Bar(pair.a, gain, interval, pair.a.label in tied, is_decided))
    if not claims.against_base and claims.best:
        bars.append(Bar(claims.best, 0.0, None, claims.best.label in tied))
    return sorted(bars, key=lambda bar: -bar.gain)


def _gain_title(scale: Scale, reference: str) -> str:
    if reference != "base":
        return f"Difference in {scale.quantity} from {reference}"
    return f"{'Gain in' if scale.higher_is_better else 'Reduction of'} {scale.quantity} over base"


def _draw_gains(sheet: Sheet, bars: Sequence[Bar], scale: Scale, claims: Claims) -> None:
    [axes] = sheet.axes()
    for place, bar in enumerate(bars):
        if bar.tied and len(bars) > 1:
            axes.axhspan(place - 0.5, place + 0.5, color=FILL, linewidth=0, zorder=0)
        if bar.interval:
            axes.plot(bar.interval, [place, place], color=point_of(method_of(bar.group))["color"], linewidth=1.4)
        look = point_of(method_of(bar.group), hollow=not bar.decided)
        [mark] = axes.plot(bar.gain, place, markersize=5, **look)
        sheet.name(mark, _words(bar, scale))
        right = axes.get_yaxis_transform()
        axes.text(1.02, place, bar.memory, transform=right, va="center", ha="left", color="#444444")
    base_line(axes.axvline, 0)
    axes.set_yticks(range(len(bars)), names_of([bar.group for bar in bars], 20 if sheet.narrow else 34))
    axes.set_ylim(len(bars) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.spines["left"].set_visible(False)
    base = claims.contest.base if claims.against_base else None
    reference = "base" if base else name_of(claims.best) if claims.best else ""
    unit = f"{scale.unit_of_gain}, 95 % CI" if scale.unit_of_gain else "95 % CI"
    axes.set_xlabel(sheet.wrapped(f"{_gain_title(scale, reference)} ({unit})"))
    if any(bar.memory for bar in bars):
        kind = "GPU memory" if on_gpu(bar.group for bar in bars) else "peak memory"
        axes.annotate(kind, (1, 1), xycoords="axes fraction", xytext=(36, 2), textcoords="offset points",
                      ha="right", va="bottom", color="#444444")  # fmt: skip
    if base:
        score = f"base {scale.text(scale.factor * claims.contest.value(base))}"
        axes.annotate(score, (0, 1), xycoords=("data", "axes fraction"), xytext=(0, 2), textcoords="offset points",
                      ha="center", va="bottom", color=BASE_COLOR)  # fmt: skip


def _words(bar: Bar, scale: Scale) -> str:
    interval = " to ".join(f"{steady(end):+.{1 if scale.factor != 1 else 3}f}" for end in bar.interval or ())
    parts = [f"{bar.group.name}: {scale.text(bar.gain, signed=True)}", f"95 % CI {interval}" if interval else ""]
    return ", ".join(part for part in (*parts, bar.memory) if part)


def memory_figure(groups: Sequence[Group]) -> Figure | None:
    """Return the figure; None where no training run has the peaks of its phases."""
    parts: list[Parts] = []
    for group in groups:
        split = [_of_run(row) for row in group.rows] if group.trained else [None]
        held, added = (mean(None if run is None else run[i] / GIBIBYTE for run in split) for i in (0, 1))
        parts += [(group, held, added)] if held is not None and added is not None else []
    if not parts:
        return None
    lost = [
        (f"{name_of(group, 20)}, seed {row.seed}", row.current.peak_memory_bytes / GIBIBYTE)
        for group in groups
        for row in group.failed
        if row.status == "oom" and row.current and row.current.peak_memory_bytes
    ][: MOST_BARS // 2]
    drawn = sorted(parts, key=lambda part: part[1] + part[2])[: MOST_BARS - len(lost)]
    remark = f" The smallest {len(drawn)} of {len(parts)} methods." if len(parts) > len(drawn) else ""
    crosses = " Crosses: memory in use when it ran out." if lost else ""
    return Figure(
        "memory",
        "Peak memory of training",
        "Static memory: weights, adapter and data when training began; peak increase: gradients, optimizer states and "
        f"activations. Means over the seeds.{crosses}{remark}",
        lambda sheet: _draw_memory(sheet, drawn, lost),
        lambda size: 0.8 + 0.165 * size.text / 7 * max(3, len(drawn) + len(lost)),
    )


def _draw_memory(sheet: Sheet, parts: Sequence[Parts], lost: Sequence[tuple[str, float]]) -> None:
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
    names = [*names_of([group for group, *_ in parts], 20 if sheet.narrow else 34), *(name for name, _ in lost)]
    axes.set_yticks(range(len(names)), names)
    axes.set_ylim(len(names) - 0.4, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    axes.set_xlabel("Peak memory of training (GiB)")
    sheet.legend(*axes.get_legend_handles_labels())


def _of_run(row: Row) -> tuple[float, float] | None:
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
