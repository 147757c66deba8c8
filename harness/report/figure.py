"""One figure: how the methods learnt, and what their loss costs in memory. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.report.display import shortened
from harness.report.groups import Group, Measure, score
from harness.report.placing import place_labels
from harness.report.summary import peak_mebibytes, trainings

if TYPE_CHECKING:
    from harness.stats import Floats

# Okabe and Ito, Color Universal Design, 2008; without yellow, which is lost on white.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
LINES = ("-", "--", "-.", ":", (0, (5, 1, 1, 1, 1, 1)), (0, (8, 2)), (0, (1, 3)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
BASE_COLOUR = "#555555"
MOST_NAMED = 8  # with more groups the points carry the numbers of the legend
STYLE: dict[str, Any] = {
    "font.family": "DejaVu Sans",
    "font.size": 8,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#DDDDDD",
    "grid.linewidth": 0.5,
    "axes.axisbelow": True,
    "legend.frameon": False,
    "svg.hashsalt": "harness",
    "text.parse_math": False,
}


def write(groups: Sequence[Group], folder: Path) -> list[Path]:
    """Write overview.svg and overview.png; nothing, and an old figure away, where no method has results."""
    paths = [folder / "overview.svg", folder / "overview.png"]
    trained = [group for group in groups if group.trained and trainings(group)]
    if not trained:
        for path in paths:
            path.unlink(missing_ok=True)
        return []
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    folder.mkdir(parents=True, exist_ok=True)
    with matplotlib.rc_context({**matplotlib.rcParamsDefault, **STYLE}):
        rows = -(-len(trained) // 4)
        figure = Figure(figsize=(7.0, 2.9 + 0.18 * rows))
        FigureCanvasAgg(figure)
        left, right = figure.subplots(1, 2)
        figure.subplots_adjust(left=0.08, right=0.975, top=0.91, bottom=0.17 + 0.05 * rows, wspace=0.27)
        names = _names(trained)
        _curves(left, trained, names)
        _trade(right, trained, groups, names)
        handles, labels = left.get_legend_handles_labels()
        figure.legend(handles, labels, loc="lower center", ncols=min(4, len(trained)), handlelength=3.2)
        figure.savefig(paths[0], metadata={"Date": None, "Creator": None})
        figure.savefig(paths[1], dpi=200, metadata={"Software": None})
    return paths


def smoothed(losses: Sequence[float | None]) -> Floats:
    """A centred moving average over about a twentieth of the steps; what is missing stays a gap of its own step."""
    import numpy as np

    values = np.array([np.nan if loss is None else loss for loss in losses], dtype=np.float64)
    half = max(0, len(values) // 40)
    result = np.full(len(values), np.nan)
    for step in range(len(values)):
        window = values[max(0, step - half) : step + half + 1]
        known = window[np.isfinite(window)]
        if np.isfinite(values[step]) and len(known):
            result[step] = known.mean()
    return result


def _names(trained: Sequence[Group]) -> list[str]:
    """What the legend says: numbered where there are too many to write beside the points."""
    drawable = [group.label.encode("latin-1", "replace").decode("latin-1") for group in trained]  # what the font has
    short = [shortened(label, 34) for label in drawable]
    return short if len(trained) <= MOST_NAMED else [f"{i} {name}" for i, name in enumerate(short, 1)]


def _style(index: int) -> dict[str, Any]:
    """Colour, line and marker; their combination comes again only after 7 x 7 groups."""
    turn = index // len(COLOURS)
    return {
        "color": COLOURS[index % len(COLOURS)],
        "linestyle": LINES[(index + turn) % len(LINES)],
        "marker": MARKERS[(index + 2 * turn) % len(MARKERS)],
    }


def _curves(axes: Any, trained: Sequence[Group], names: Sequence[str]) -> None:
    """Training loss per optimizer step, the mean over the seeds, and the validation losses."""
    import numpy as np

    for index, (group, name) in enumerate(zip(trained, names, strict=True)):
        style = _style(index)
        marker = {"color": style["color"], "marker": style.pop("marker"), "markersize": 5, "markerfacecolor": "none"}
        runs = trainings(group)
        length = min(len(run.losses) for run in runs)
        mean = np.mean([smoothed(run.losses)[:length] for run in runs], axis=0)
        axes.plot(range(1, length + 1), mean, linewidth=1.2, **style)
        at: dict[int, list[float]] = {}
        for run in runs:
            for step, loss in run.validation:
                at.setdefault(step, []).append(loss)
        steps = [step for step in sorted(at) if len(at[step]) == len(runs)]
        axes.plot(steps, [sum(at[step]) / len(at[step]) for step in steps], linestyle="none", zorder=3, **marker)
        axes.plot([], [], label=name, **style, **{k: v for k, v in marker.items() if k != "color"})
    axes.set_title("Training loss (line), validation (markers)", fontsize=8, loc="left")
    axes.set_xlabel("Optimizer step")
    axes.set_ylabel("Nats per answer token" if _on_answers(trained) else "Nats per token")


def _on_answers(trained: Sequence[Group]) -> bool:
    recipes = [group.first.record.recipe.get("train") or {} for group in trained if group.first.record]
    return all(train.get("loss_on") == "completion" for train in recipes)


def _trade(axes: Any, trained: Sequence[Group], groups: Sequence[Group], names: Sequence[str]) -> None:
    """Held-out loss against peak memory: test where every method has it, else validation."""
    role = "test" if all(group.role("test") for group in trained) else "validation"
    points, labels = [], []
    for index, (group, name) in enumerate(zip(trained, names, strict=True)):
        loss, memory = _loss(group, role), peak_mebibytes(group)
        if loss is None or memory is None:
            continue
        style = _style(index)
        axes.plot(memory, loss, color=style["color"], marker=style["marker"], markersize=6, markeredgecolor="white")
        points.append((memory, loss))
        labels.append(name if len(trained) <= MOST_NAMED else name.split()[0])
    axes.margins(0.18)
    base = [found for g in groups if g.ok and g.first.is_base and (found := _loss(g, role)) is not None]
    for value in dict.fromkeys(base):
        axes.axhline(value, color=BASE_COLOUR, linestyle=(0, (4, 3)), linewidth=1)
    axes.set_title(f"{role.capitalize()} loss against peak memory", fontsize=8, loc="left")
    axes.set_xlabel("Peak memory, MiB")
    axes.set_ylabel("Nats per answer token")
    if not points:
        axes.text(0.5, 0.5, "no held-out loss with a peak memory", transform=axes.transAxes, ha="center", va="center")
    place_labels(axes, points, labels, list(dict.fromkeys(base)))


def _loss(group: Group, role: str) -> float | None:
    found = group.role(role)
    loss = score(group, Measure(found[0].record.eval_id, "loss")) if found else None
    return loss.value if loss else None
