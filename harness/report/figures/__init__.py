"""The static figures of a report, each drawn only when the records hold its data. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from harness.report.figures import curves, forgetting, heat, memory, overview, pareto, sensitivity
from harness.report.figures.style import Drawn, remove
from harness.report.groups import Group

_FIGURES: dict[str, Callable[[Sequence[Group], Path], Drawn | None]] = {
    overview.STEM: overview.make,
    pareto.STEM: pareto.make,
    curves.STEM: curves.make,
    sensitivity.STEM: sensitivity.make,
    forgetting.STEM: forgetting.make,
    memory.STEM: memory.make,
    heat.TASKS_STEM: heat.make_tasks,
    heat.RANK_STEM: heat.make_rank,
}


def write(groups: Sequence[Group], folder: Path) -> list[Drawn]:
    """Draw what can be drawn into the folder, take away the old figures of what cannot, and return what there is."""
    drawn = []
    for stem, make in _FIGURES.items():
        found = make(groups, folder)
        if found is None:
            remove(folder, stem)
        else:
            drawn.append(found)
    return drawn
