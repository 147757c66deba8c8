"""Figure of the tuning budget: the expected lowest validation loss by the number of trials, for every contestant."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.report.data.tuning import Contestant, expected_best
from harness.report.figures.style import Drawn, drawable, drawing, legend_below, legend_rows, room, style_of

STEM = "tuning_budget"


def make(found: Sequence[Contestant], folder: Path) -> Drawn | None:
    """Draw it where a contestant had several trials that ended well."""
    drawn = [one for one in found if sum(trial.status == "ok" for trial in one.trials) > 1]
    if not drawn:
        return None
    height = 3.1 + 0.18 * legend_rows(len(drawn))
    with drawing(folder, STEM, height) as figure:
        axes = figure.subplots()
        room(figure, len(drawn), height)
        for index, one in enumerate(drawn):
            curve = [best for best in expected_best(one.trials) if best.expected is not None]
            style = style_of(index)
            budgets = [best.budget for best in curve]
            axes.plot(
                budgets,
                [best.expected for best in curve],
                label=drawable(one.name),
                markersize=4,
                linewidth=1.2,
                **style,
            )
            axes.fill_between(
                budgets, [best.low for best in curve], [best.high for best in curve], color=style["color"], alpha=0.12,
                linewidth=0,
            )  # fmt: skip
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.set_xlabel("Trials")
        axes.set_ylabel("Nats per answer token")
        axes.set_title("Expected lowest validation loss")
        legend_below(figure, axes, len(drawn))
    return Drawn(
        STEM,
        "What a tuning budget buys",
        "The lowest validation loss to be expected of so many of a contestant's trials, drawn at random; the band "
        "holds 80 % of the draws. A failed trial counts and finds nothing: the line begins where a draw cannot hold "
        "failed ones alone.",
    )
