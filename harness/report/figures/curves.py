"""Curves: losses by optimizer step, the best loss to expect of a tuning budget, and the updates by layer."""

from __future__ import annotations

import re
from collections.abc import Sequence
from statistics import mean
from typing import TYPE_CHECKING, Any

from harness.records.record import UpdateRecord, WeightUpdate
from harness.report.analysis.axes import trainings
from harness.report.data.groups import Group, Measure
from harness.report.data.tuning import Best, Contestant, expected_best
from harness.report.display import collected
from harness.report.figures.canvas import Figure, Sheet
from harness.report.figures.style import PALE, amounts, base_line, drawable, kind_of, lines_of, method_of, name_of

if TYPE_CHECKING:
    from harness.stats import Floats


MOST_COLORED = 6
MOST_BANDS = 4  # lines with bands; more of them hide each other
MOST_LINES = 60  # of more methods, those of the lowest validation loss
_PALE: dict[str, Any] = {"color": PALE, "linewidth": 0.7, "zorder": 1}
LAYER = re.compile(r"\.(\d+)\.")
MOST_UPDATES = 8
_PANELS = (
    ("relative_norm", "Relative norm"),
    ("effective_rank", "Effective rank"),
    ("alignment_left", "Alignment with top left vectors"),
    ("intruder_dimensions", "Intruder dimensions per matrix"),
)


def learning_curves(groups: Sequence[Group]) -> Figure | None:
    """Return the training and validation losses by step; None unless a method was validated at two steps or more."""
    trained = [group for group in groups if group.trained and trainings(group)]
    if not any(len(by_step(group)) > 1 for group in trained):
        return None
    ordered = sorted(trained, key=last_loss)[:MOST_LINES]
    looks = ((g, s) for g in groups if g.ok and g.first.is_base for s in g.role("validation"))
    losses = (group.score(Measure(scored.comparison_key, "loss")) for group, scored in looks)
    base = next((loss.value for loss in losses if loss), None)  # None where the untouched model was not evaluated
    remark = f" Colored: the {MOST_COLORED} lowest of {len(ordered)} at the end." if _many(ordered) else ""
    remark += f" The best {len(ordered)} of {len(trained)} methods." if len(trained) > len(ordered) else ""
    return Figure(
        "learning_curves",
        "Training and validation loss by optimizer step",
        "Means over the seeds, training losses smoothed; bands: from the lowest to the highest seed."
        + (" Dashed: base." if base is not None else "") + remark,
        lambda sheet: _draw_curves(sheet, ordered, base),
        lambda size: 3.9 if size.inches < 5 else 2.9,
    )  # fmt: skip


def tuning_budget(contestants: Sequence[Contestant]) -> Figure | None:
    """Return the best validation loss to expect of a budget; None unless a method had several completed trials."""
    tried = [contestant for contestant in contestants if sum(trial.status == "ok" for trial in contestant.trials) > 1]
    curves = [[best for best in expected_best(contestant.trials) if best.expected is not None] for contestant in tried]
    pairs = [pair for pair in zip(tried, curves, strict=True) if pair[1]]
    if not pairs:
        return None
    pairs.sort(key=lambda pair: pair[1][-1].expected or 0.0)
    return Figure(
        "tuning_budget",
        "Expected best validation loss by the number of trials",
        "Expected best validation loss of so many trials, drawn at random (Dodge et al. 2019); failed trials count as "
        "no result."
        + (" Bands: 80 % of the draws." if len(pairs) <= MOST_BANDS else "")
        + (f" Colored: the best {MOST_COLORED} of {len(pairs)} methods." if _many(pairs) else ""),
        lambda sheet: _draw_budget(sheet, pairs),
        lambda size: 2.5 if size.inches < 5 else 2.9,
    )


def training_curve(group: Group) -> Floats:
    """Return the smoothed training loss, the mean over the seeds, as long as the shortest of them."""
    import numpy as np

    runs = trainings(group)
    length = min(len(run.losses) for run in runs)
    mean: Floats = np.mean([smoothed(run.losses)[:length] for run in runs], axis=0)
    return mean


def smoothed(losses: Sequence[float | None]) -> Floats:
    """Return a centered moving average over about a twentieth of the steps; a missing step stays a gap."""
    import numpy as np

    values = np.array([np.nan if loss is None else loss for loss in losses], dtype=np.float64)
    half = max(0, len(values) // 40)
    finite = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(finite, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(finite)])
    steps = np.arange(len(values))
    first, last = np.maximum(0, steps - half), np.minimum(len(values), steps + half + 1)
    result: Floats = np.full(len(values), np.nan)
    result[finite] = ((sums[last] - sums[first])[finite]) / ((counts[last] - counts[first])[finite])
    return result


def by_step(group: Group) -> dict[int, list[float]]:
    """Return the validation losses of the seeds by optimizer step, for steps at which every seed was validated."""
    runs = trainings(group)
    losses = collected(look for run in runs for look in run.validation)
    return {step: losses[step] for step in sorted(losses) if len(losses[step]) == len(runs)}


def last_loss(group: Group) -> float:
    """Return the last validation loss, the mean over the seeds; infinity without one."""
    losses = [*by_step(group).values()]
    return sum(losses[-1]) / len(losses[-1]) if losses else float("inf")


def _many(lines: Sequence[object]) -> bool:
    return len(lines) > MOST_COLORED + 2


def _draw_curves(sheet: Sheet, ordered: Sequence[Group], base: float | None) -> None:
    left, right = sheet.axes(2, 1, sharex=True) if sheet.narrow else sheet.axes(1, 2)
    handles, styles = [], lines_of([method_of(group) for group in ordered])
    for place, group in enumerate(ordered):
        colored = place < MOST_COLORED or not _many(ordered)
        style = styles[place] if colored else {**_PALE, "marker": ""}
        plain = {key: value for key, value in style.items() if not key.startswith("marker")}
        mean = training_curve(group)
        left.plot(range(1, len(mean) + 1), mean, **plain)
        line = _validation(sheet, right, group, style, colored)
        if colored:
            handles.append((line, name_of(group)))
    if base is not None:
        handles.append((base_line(right.axhline, base), "base"))
    on_answers = all(group.first.part("train").get("loss_on") == "completion" for group in ordered)
    unit = "nats per answer token" if on_answers else "nats per token"
    for axes, title in ((left, f"Training loss\n({unit})"), (right, "Validation loss\n(nats per answer token)")):
        axes.set_ylabel(title)
        amounts(axes.yaxis)
        if axes is right or not sheet.narrow:
            axes.set_xlabel("Optimizer step")
    sheet.legend(*zip(*handles, strict=True))


def _validation(sheet: Sheet, axes: Any, group: Group, style: dict[str, Any], colored: bool) -> Any:
    losses = by_step(group)
    [line] = axes.plot([*losses], [sum(loss) / len(loss) for loss in losses.values()], **style)
    sheet.name(line, f"{group.name}: validation loss {last_loss(group):.4g} at the end")
    if colored and any(len(loss) > 1 for loss in losses.values()):
        low, high = [min(loss) for loss in losses.values()], [max(loss) for loss in losses.values()]
        axes.fill_between([*losses], low, high, color=style["color"], alpha=0.15, linewidth=0)
    return line


def _draw_budget(sheet: Sheet, pairs: Sequence[tuple[Contestant, list[Best]]]) -> None:
    [axes] = sheet.axes()
    handles, styles = [], lines_of([_kind(contestant) for contestant, _ in pairs])
    for place, (contestant, curve) in enumerate(pairs):
        colored = place < MOST_COLORED or not _many(pairs)
        name = contestant.title
        style = styles[place] if colored else {**_PALE, "marker": ""}
        budgets = [best.budget for best in curve]
        [line] = axes.plot(budgets, [best.expected for best in curve], **style)
        sheet.name(line, f"{name}: {curve[-1].expected:.4g} with {budgets[-1]} trials")
        if colored:
            handles.append((line, drawable(name)))
        if len(pairs) <= MOST_BANDS:
            low, high = [best.low for best in curve], [best.high for best in curve]
            axes.fill_between(budgets, low, high, color=style["color"], alpha=0.12, linewidth=0)
    axes.xaxis.get_major_locator().set_params(integer=True)
    amounts(axes.yaxis)
    axes.set_xlabel("Trials")
    axes.set_ylabel(sheet.wrapped("Expected best validation loss (nats per token)", vertical=True))
    sheet.legend(*zip(*handles, strict=True))


def _kind(contestant: Contestant) -> str:
    """Return the name that decides color and marker, as `method_of` does for a row of the results."""
    look = contestant.trials[0].looks[0]
    return kind_of(look.cell.method, (look.run.recipe.get("method") or {}) if look.run else {})


def update_figure(groups: Sequence[Group]) -> Figure | None:
    """Return the figure; None where no update was measured."""
    measured = [group for group in groups if group.trained and any(layers(group, key) for key, _ in _PANELS)]
    if not measured:
        return None
    return Figure(
        "update",
        "Shape of the updates by layer",
        "Means over the matrices of a layer and over the seeds; the terms are defined in update.md.",
        lambda sheet: _draw_layers(sheet, measured),
        lambda size: 4.2 if size.inches < 5 else 4.6,
    )


def matrices(update: UpdateRecord) -> dict[str, WeightUpdate]:
    """Return the changed matrices of which the shape was measured, by name."""
    return {name: measured for name, measured in update.weights.items() if measured.effective_rank is not None}


def layers(group: Group, key: str) -> dict[int, float]:
    """Return the mean of a measurement over the matrices and the seeds, by layer."""
    values = collected(
        (int(place.group(1)), value)
        for update in (row.update for row in group.rows if row.update is not None)
        for name, weight in matrices(update).items()
        if (place := LAYER.search(name)) and (value := getattr(weight, key)) is not None
    )
    return {layer: mean(values[layer]) for layer in sorted(values)}


def _draw_layers(sheet: Sheet, groups: Sequence[Group]) -> None:
    handles: list[tuple[Any, str]] = []
    styles = lines_of([method_of(group) for group in groups])
    for axes, (key, title) in zip(sheet.axes(2, 2, sharex=True), _PANELS, strict=True):
        for place, group in enumerate(groups):
            values = layers(group, key)
            colored = place < MOST_UPDATES
            style = {**styles[place], "markersize": 3} if colored else {"color": PALE, "linewidth": 0.7}
            [line] = axes.plot([*values], [*values.values()], **style)
            sheet.name(line, f"{group.name}: {title.lower()}")
            if colored and len(handles) < min(len(groups), MOST_UPDATES):
                handles.append((line, name_of(group)))
        axes.set_ylim(bottom=0)
        amounts(axes.yaxis)
        axes.set_ylabel(sheet.wrapped(title, vertical=True))
    for axes in sheet.figure.axes[2:]:
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Layer")
    sheet.legend(*zip(*handles, strict=True))
