"""Learning curves: training and validation loss of every method by optimizer step, with the spread of its seeds."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report.data.groups import Group
from harness.report.figures.style import (
    MOST_LEGEND,
    Drawn,
    drawing,
    legend_below,
    legend_rows,
    names_of,
    room,
    style_of,
)
from harness.report.pages.summary import trainings

if TYPE_CHECKING:
    from harness.stats import Floats

STEM = "learning_curves"


def make(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw them where a method was validated at two steps or more; one point is not a curve."""
    trained = [group for group in groups if group.trained and trainings(group)]
    validated = [group for group in trained if len(by_step(group)) > 1]
    if not validated:
        return None
    shown = drawn_curves(trained)
    height = 2.9 + 0.18 * legend_rows(len(shown))
    with drawing(folder, STEM, height) as figure:
        left, right = figure.subplots(1, 2)
        room(figure, len(shown), height)
        for index, (group, name) in enumerate(zip(shown, names_of(shown), strict=True)):
            style = style_of(index)
            marker = style.pop("marker")
            mean = training_curve(group)
            left.plot(range(1, len(mean) + 1), mean, linewidth=1.2, **style)
            _validation(right, group, {**style, "marker": marker})
            left.plot([], [], label=name, marker=marker, markersize=4, **style)
        unit = "Nats per answer token" if on_answers(trained) else "Nats per token"
        for axes, title in ((left, "Training loss, smoothed"), (right, "Validation loss")):
            axes.set_title(title)
            axes.set_xlabel("Optimizer step")
            axes.set_ylabel(unit)
        right.set_ylabel("Nats per answer token")
        legend_below(figure, left, len(shown))
    return Drawn(
        STEM,
        "Training and validation loss by optimizer step",
        "Means over the seeds; the band of the validation loss reaches from the lowest to the highest seed."
        + curves_left_out(trained),
    )


def drawn_curves(trained: Sequence[Group]) -> list[Group]:
    """Return the groups whose curves are drawn, in their order; of too many, those of the lowest validation loss."""
    if len(trained) <= MOST_LEGEND:
        return list(trained)
    best = sorted(range(len(trained)), key=lambda place: (_last_loss(trained[place]), place))[:MOST_LEGEND]
    return [trained[place] for place in sorted(best)]


def curves_left_out(trained: Sequence[Group]) -> str:
    """Return the caption's sentence on the curves that are not drawn; "" where all are."""
    if len(trained) <= MOST_LEGEND:
        return ""
    return f" Curves: the {MOST_LEGEND} of {len(trained):,} methods with the lowest validation loss."


def _last_loss(group: Group) -> float:
    losses = [*by_step(group).values()]
    return sum(losses[-1]) / len(losses[-1]) if losses else float("inf")


def training_curve(group: Group) -> Floats:
    """The smoothed training loss, the mean over the seeds, as long as the shortest of them."""
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
    known = np.isfinite(values)
    sums = np.concatenate([[0.0], np.cumsum(np.where(known, values, 0.0))])
    counts = np.concatenate([[0], np.cumsum(known)])
    steps = np.arange(len(values))
    first, last = np.maximum(0, steps - half), np.minimum(len(values), steps + half + 1)
    result: Floats = np.full(len(values), np.nan)
    result[known] = ((sums[last] - sums[first])[known]) / ((counts[last] - counts[first])[known])
    return result


def by_step(group: Group) -> dict[int, list[float]]:
    """Optimizer step -> the validation losses of the seeds, for the steps at which every seed was validated."""
    runs = trainings(group)
    at: dict[int, list[float]] = {}
    for run in runs:
        for step, loss in run.validation:
            at.setdefault(step, []).append(loss)
    return {step: at[step] for step in sorted(at) if len(at[step]) == len(runs)}


def on_answers(trained: Sequence[Group]) -> bool:
    """Return whether every training loss is over answer tokens alone."""
    recipes = [group.first.record.recipe.get("train") or {} for group in trained if group.first.record]
    return all(train.get("loss_on") == "completion" for train in recipes)


def _validation(axes: Any, group: Group, style: dict[str, Any]) -> None:
    at = by_step(group)
    axes.plot([*at], [sum(losses) / len(losses) for losses in at.values()], markersize=4, linewidth=1.2, **style)
    if any(len(losses) > 1 for losses in at.values()):
        low, high = [min(losses) for losses in at.values()], [max(losses) for losses in at.values()]
        axes.fill_between([*at], low, high, color=style["color"], alpha=0.15, linewidth=0)
