"""Figures over several tasks: the critical-difference diagram, and the gain and the rank on each task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.report import names
from harness.report.analysis.claims import MetricComparison
from harness.report.analysis.tradeoff import left_out, ranked_on_all
from harness.report.data.groups import Group
from harness.report.display import p_value, steady
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.style import BASE_COLOR, drawable, method_of, names_of, point_of, scale_of

if TYPE_CHECKING:
    from harness.stats import Ranks

FEWEST_TASKS, FEWEST_METHODS = 3, 3  # of a critical-difference diagram
MOST_ROWS, MOST_COLUMNS = 40, 12
MOST_DIAGRAM = 30  # methods
LINE = 0.15  # inches of a line of names
_SHADES = ("#FFFFFF", "#DDEBF5", "#9FC7E4", "#5A9BCB", "#1F6FAE", "#084B83")  # light to dark: the best is darkest


def diagram(targets: Sequence[MetricComparison]) -> Figure | None:
    """Return the critical-difference diagram of the target tasks; None with fewer than three tasks or methods."""
    from harness.stats import average_ranks

    tasks, members = ranked_on_all(targets)
    if len(tasks) < FEWEST_TASKS or not FEWEST_METHODS <= len(members) <= MOST_DIAGRAM:
        return None
    ranks = average_ranks([[contest.value(group) for contest in tasks] for group in members])
    alike = ranks.friedman_p >= 0.05
    return Figure(
        "critical_difference",
        f"Average rank over {len(tasks)} target tasks",
        "Left is better. Bars join methods whose average ranks do not differ significantly "
        + ("(Friedman's test over all methods: " if alike else "(Nemenyi's test, family-wise 5 %; Friedman's test: ")
        + f"{p_value(ranks.friedman_p)}), with tasks as the sample."
        + (" CD: the smallest significant difference." if _shows_difference(ranks) else ""),
        lambda sheet: _draw_diagram(sheet, members, ranks),
        lambda size: 0.75 + LINE * size.text / 7 * (-(-len(members) // 2) + len(_cliques(ranks)) * 0.6),
    )


def heat_map(targets: Sequence[MetricComparison], retention: Sequence[MetricComparison]) -> Figure | None:
    """Return the gain of every method on every task, shaded by its rank there; None with fewer than two of either."""
    tasks, members = ranked_on_all(targets)
    others = [task for task in retention if all(group in task.groups for group in members)]
    if not 2 <= len(members) <= MOST_ROWS or not tasks or len(tasks) + len(others) < 2:
        return None
    titled = (("Target tasks", tasks[:MOST_COLUMNS]), ("Retention", others[:MOST_COLUMNS]))
    gains = all(group.gain(task.measure) for _, part in titled for task in part for group in members)
    blocks = [_block(title, part, members, gains) for title, part in titled if part]
    order = sorted(range(len(members)), key=lambda i: (blocks[0].average[i], blocks[0].ranks[0][i]))
    averaged = any(len(block.titles) > 1 for block in blocks)
    remarks = ["Ranks are averaged over the tasks of one kind."] if averaged else []
    remarks += filter(None, [left_out([task for task in targets if task.higher_is_better], tasks, members)])
    return Figure(
        "tasks",
        "Gain over base and rank on each task" if gains else "Score and rank on each task",
        f"Numbers: {'gain over base in points (in nats for a loss)' if gains else 'scores'}, at column width "
        + " ".join(["the ranks; darker: a better rank on that task, by the means alone.", *remarks]),
        lambda sheet: _draw_heat(sheet, blocks, members, order),
        lambda size: 0.8 + LINE * size.text / 7 * max(3, len(members)),
    )


@dataclass(frozen=True)
class _Block:
    """Tasks of one role: a column of numbers for each and of ranks, and the average rank of each method."""

    title: str
    titles: tuple[str, ...]
    cells: tuple[tuple[str, ...], ...]
    ranks: tuple[tuple[float, ...], ...]
    average: tuple[float, ...]

    @property
    def places(self) -> tuple[tuple[str, ...], ...]:
        """Return the ranks as text; 2.5 where two methods share the second and the third."""
        return tuple(tuple(f"{rank:g}" for rank in column) for column in self.ranks)


def _block(title: str, tasks: Sequence[MetricComparison], members: Sequence[Group], gains: bool) -> _Block:
    """Return the columns of these tasks, with gains over the base model or with scores."""
    from scipy.stats import rankdata

    cells, ranks = [], []
    for contest in tasks:
        scale = scale_of(contest)
        over = [group.gain(contest.measure) for group in members]
        changes = [scale.gain(gain.value) for gain in over if gain]
        scores = [contest.rounded(group) for group in members]  # equal ones share a rank
        digits = 1 if scale.factor != 1 else 2
        numbers = [f"{steady(value):+.{digits}f}" for value in changes] if gains else [
            f"{steady(scale.factor * score):.{digits}f}" for score in scores]  # fmt: skip
        cells.append(tuple(text.replace("-", "\N{MINUS SIGN}") for text in numbers))
        ranks.append(tuple(map(float, rankdata([-scale.gain(score) for score in scores]))))
    average = tuple(sum(column) / len(ranks) for column in zip(*ranks, strict=True))
    titles = tuple(drawable(names.task(scale_of(contest).task).short, 16) for contest in tasks)
    return _Block(title, titles, tuple(cells), tuple(ranks), average)


def _draw_heat(sheet: Sheet, blocks: Sequence[_Block], trained: Sequence[Group], order: Sequence[int]) -> None:
    from matplotlib.colors import LinearSegmentedColormap

    [axes] = sheet.axes()
    colors = LinearSegmentedColormap.from_list("ranks", _SHADES)
    left, ticks = 0.0, []
    for block in blocks:
        cells = block.places if sheet.narrow else block.cells
        columns = len(block.titles)
        shade = [[(len(order) - ranks[i]) / max(len(order) - 1, 1) for ranks in block.ranks] for i in order]
        edges = [left + column for column in range(columns + 1)], [row - 0.5 for row in range(len(order) + 1)]
        axes.pcolormesh(*edges, shade, cmap=colors, vmin=0, vmax=1, edgecolor="white", linewidth=0.5)
        for row, i in enumerate(order):
            for column in range(columns):
                ink = _ink(colors(shade[row][column]))
                axes.text(left + column + 0.5, row, cells[column][i], ha="center", va="center", color=ink)
            if columns > 1:
                axes.text(
                    left + columns + 0.6,
                    row,
                    f"{block.average[i]:.{1 if sheet.narrow else 2}f}",
                    ha="center",
                    va="center",
                )
        ticks += [(left + column + 0.5, title) for column, title in enumerate(block.titles)]
        ticks += [(left + columns + 0.6, "avg. rank")] if columns > 1 else []
        axes.annotate(block.title, (left, len(order) - 0.5), xytext=(0, -3), textcoords="offset points",
                      va="top", ha="left", color=BASE_COLOR)  # fmt: skip
        left += columns + (1.7 if columns > 1 else 0.5)
    axes.set(xlim=(0, left - 0.5), ylim=(len(order) - 0.5, -0.5))
    axes.set_xticks(*zip(*ticks, strict=True))
    axes.xaxis.tick_top()
    if sheet.narrow or len(ticks) > 9:
        axes.tick_params(axis="x", labelrotation=40)
        for label in axes.get_xticklabels():
            label.set(ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(order)), names_of([trained[i] for i in order], 18 if sheet.narrow else 30))
    axes.tick_params(length=0)
    axes.grid(visible=False)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _ink(background: Sequence[float]) -> str:
    """Return black or white, whichever has the higher contrast (WCAG 2.2, relative luminance)."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in background[:3]]
    luminance = 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    return "black" if (luminance + 0.05) ** 2 > 1.05 * 0.05 else "white"


def _cliques(ranks: Ranks) -> list[tuple[float, float]]:
    """Return the ends of the bars: runs of methods within the critical difference that no longer run holds."""
    ordered = sorted(ranks.average)
    reach = float("inf") if ranks.friedman_p >= 0.05 else ranks.critical_difference
    ends = [(low, max(high for high in ordered if high - low <= reach)) for low in ordered]
    longest = [end for end in dict.fromkeys(ends) if end[0] < end[1]]
    return [span for span in longest if not any(o != span and o[0] <= span[0] and span[1] <= o[1] for o in longest)]


def _draw_diagram(sheet: Sheet, members: Sequence[Group], ranks: Ranks) -> None:
    [axes] = sheet.axes()
    order = sorted(range(len(members)), key=lambda i: ranks.average[i])
    half = -(-len(order) // 2)
    bars = _cliques(ranks)
    depth = 0.6 * len(bars) + 0.4
    low, high = 1, len(members)
    axes.plot([low, high], [0, 0], color="black", linewidth=0.8)
    for tick in _ticks(high, 6 if sheet.narrow else 16):
        axes.plot([tick, tick], [0, -0.25], color="black", linewidth=0.6)
        axes.text(tick, -0.4, str(tick), ha="center", va="bottom")
    for place, (left, right) in enumerate(bars):
        axes.plot([left - 0.03, right + 0.03], [0.45 + 0.6 * place] * 2, color="black", linewidth=2.2,
                  solid_capstyle="butt")  # fmt: skip
    pad = (high - low) * (0.06 if sheet.narrow else 0.03)
    called = names_of(members, 18 if sheet.narrow else 30)
    for place, i in enumerate(order):
        on_left = place < half
        line = depth + 0.5 + (place if on_left else len(order) - 1 - place)
        edge = low - pad if on_left else high + pad
        rank, style = float(ranks.average[i]), point_of(method_of(members[i]))
        axes.plot([rank, rank, edge], [0, line, line], color=style["color"], linewidth=0.7, zorder=1)
        [mark] = axes.plot(rank, 0, markersize=4.5, zorder=3, **style)
        axes.annotate(
            f"{called[i]} ({rank:.1f})", (edge, line), va="center",
            xytext=(-3 if on_left else 3, 0), textcoords="offset points", ha="right" if on_left else "left",
        )  # fmt: skip
        sheet.name(mark, f"{members[i].name}: average rank {rank:.2f}")
    _draw_scale(axes, ranks, low)
    axes.set(xlim=(low - pad, high + pad), ylim=(half + depth + 0.9, -2.9))
    axes.set_axis_off()


def _shows_difference(ranks: Ranks) -> bool:
    """Return whether the critical difference says something, and is not longer than the axis of the ranks."""
    return bool(ranks.friedman_p < 0.05 and ranks.critical_difference <= len(ranks.average) - 1)


def _draw_scale(axes: Any, ranks: Ranks, low: float) -> None:
    """Draw the critical difference above the axis, where the caption names it."""
    length = ranks.critical_difference
    if _shows_difference(ranks):
        axes.plot([low, low + length], [-1.9, -1.9], color="black", linewidth=0.8)
        for end in (low, low + length):
            axes.plot([end, end], [-1.75, -2.05], color="black", linewidth=0.8)
        axes.text(low + length / 2, -2.05, f"CD = {length:.2f}", ha="center", va="bottom")


def _ticks(highest: int, most: int) -> list[int]:
    step = -(-(highest - 1) // most)
    return [*range(1, highest + 1, max(step, 1))]
