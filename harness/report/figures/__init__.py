"""The static figures of a report, each drawn only when the records hold its data. Equal records give equal bytes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from harness.records.record import ExternalRecord
from harness.report.data.groups import Group, Measure
from harness.report.data.tuning import Contestant
from harness.report.figures import budget, curves, forgetting, heat, memory, overview, pareto, sensitivity
from harness.report.figures.style import Drawn, remove

_FIGURES: dict[str, Callable[[Sequence[Group], Path], Drawn | None]] = {
    overview.STEM: overview.make,
    pareto.STEM: pareto.make,  # with the rows of others, see `write`
    curves.STEM: curves.make,
    sensitivity.STEM: sensitivity.make,
    forgetting.STEM: forgetting.make,
    memory.STEM: memory.make,
    heat.TASKS_STEM: heat.make_tasks,
    heat.RANK_STEM: heat.make_rank,
}


@dataclass(frozen=True)
class Tuned:
    """The trials of a sweep with stages, which are no rows of its results."""

    groups: Sequence[Group] = ()
    contestants: Sequence[Contestant] = ()


def write(
    groups: Sequence[Group],
    folder: Path,
    tuned: Tuned | None = None,
    external: Sequence[ExternalRecord] = (),
    asked_for: Measure | None = None,
) -> list[Drawn]:
    """Draw what can be drawn into the folder, take away the old figures of what cannot, and return what there is.

    `asked_for` is what answers the question; None: the first target task.
    """
    tuned = tuned or Tuned()
    makers: dict[str, Callable[[], Drawn | None]] = {
        stem: partial(make, groups, folder) for stem, make in _FIGURES.items()
    }
    makers[pareto.STEM] = partial(pareto.make, groups, folder, external, asked_for)
    makers[forgetting.STEM] = partial(forgetting.make, groups, folder, asked_for)
    makers[sensitivity.STEM] = partial(sensitivity.make, tuned.groups or groups, folder)
    makers[budget.STEM] = partial(budget.make, tuned.contestants, folder)
    drawn = []
    for stem, make in makers.items():
        found = make()
        if found is None:
            remove(folder, stem)
        else:
            drawn.append(found)
    return drawn
