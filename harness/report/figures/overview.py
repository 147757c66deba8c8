"""Figure of the first look, two panels: the learning curves of the methods, and their loss against memory."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.report.data.groups import Group, Measure
from harness.report.figures.curves import by_step, curves_left_out, drawn_curves, on_answers, training_curve
from harness.report.figures.points import Place, draw_base, draw_points, name_points
from harness.report.figures.style import Drawn, drawing, legend_below, legend_rows, names_of, room, style_of
from harness.report.pages.summary import peak_mebibytes, trainings

STEM = "overview"


def make(groups: Sequence[Group], folder: Path) -> Drawn | None:
    """Draw it where a method has results."""
    trained = [group for group in groups if group.trained and trainings(group)]
    if not trained:
        return None
    height = 2.9 + 0.18 * legend_rows(len(trained))
    with drawing(folder, STEM, height) as figure:
        left, right = figure.subplots(1, 2)
        room(figure, len(trained), height)
        _curves(left, trained)
        _trade(right, trained, groups)
        legend_below(figure, left, len(trained))
    markers = ", with the validation losses as markers" if any(map(by_step, trained)) else ""
    return Drawn(
        STEM,
        "Training loss per step, and held-out loss against peak memory",
        f"Left: training loss per optimizer step, smoothed{markers}. Right: held-out loss "
        "against peak memory; lower and further left is better; the dashed line is base." + curves_left_out(trained),
    )


def _curves(axes: Any, trained: Sequence[Group]) -> None:
    """Training loss per optimizer step, the mean over the seeds, and the validation losses."""
    shown = drawn_curves(trained)
    for index, (group, name) in enumerate(zip(shown, names_of(shown), strict=True)):
        style = style_of(index)
        marker = {"color": style["color"], "marker": style.pop("marker"), "markersize": 5, "markerfacecolor": "none"}
        mean = training_curve(group)
        axes.plot(range(1, len(mean) + 1), mean, linewidth=1.2, **style)
        at = by_step(group)
        axes.plot([*at], [sum(losses) / len(losses) for losses in at.values()], linestyle="none", zorder=3, **marker)
        axes.plot([], [], label=name, **style, **{k: v for k, v in marker.items() if k != "color"})
    axes.set_title("Training loss (line), validation (markers)" if any(map(by_step, trained)) else "Training loss")
    axes.set_xlabel("Optimizer step")
    axes.set_ylabel("Nats per answer token" if on_answers(trained) else "Nats per token")


def _trade(axes: Any, trained: Sequence[Group], groups: Sequence[Group]) -> None:
    """Held-out loss against peak memory: test where every method has it, else validation."""
    role = "test" if all(group.role("test") for group in trained) else "validation"
    places: list[Place | None] = []
    for group in trained:
        loss, memory = _loss(group, role), peak_mebibytes(group)
        places.append(None if loss is None or memory is None else ((memory, None), (loss, None)))
    draw_points(axes, trained, places)
    axes.margins(0.18)
    base = [found for g in groups if g.ok and g.first.is_base and (found := _loss(g, role)) is not None]
    draw_base(axes, base)
    axes.set_title(f"{role.capitalize()} loss against peak memory")
    axes.set_xlabel("Peak memory, MiB")
    axes.set_ylabel("Nats per answer token")
    if not any(places):
        axes.text(0.5, 0.5, "no held-out loss with a peak memory", transform=axes.transAxes, ha="center", va="center")
    name_points(axes, trained, places, base)


def _loss(group: Group, role: str) -> float | None:
    found = group.role(role)
    loss = group.score(Measure(found[0].asked_id, "loss")) if found else None
    return loss.value if loss else None
