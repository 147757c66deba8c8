"""Status of a sweep as readable lines: counts by stage, reasons, and the expected end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from statistics import mean
from typing import Any

from harness.records.record import Cell
from harness.sweep.cluster.submissions import Tasks
from harness.sweep.run_status import Stored

FAILURES = ("failed", "oom", "diverged")
_ORDER = ("ok", "skipped", "running", "waiting", "lacks evaluations", "interrupted", *FAILURES)
_ENOUGH = 200  # finished runs whose mean time predicts that of the others
_TOLD_EACH = ("running", "skipped", "interrupted", *FAILURES)


@dataclass(frozen=True)
class Stands:
    """Status of one run of a sweep."""

    cell: Cell
    state: str
    reason: str

    @property
    def ended_well(self) -> bool:
        """Return True if the run needs no further work. A diverged trial is a result of tuning."""
        return self.state in ("ok", "skipped") or (self.state == "diverged" and self.cell.stage == "tune")


def standing(stored: Stored, tasks: Tasks | None = None) -> list[Stands]:
    """Return the status of each run of each stage. `tasks` holds the SLURM state of a submitted sweep."""
    cells = {(cell.stage, cell.recipe_id, cell.seed): cell for cell in stored.record.cells}
    return [Stands(cell, *stored.status(cell, tasks)) for cell in cells.values()]


def is_over(stored: Stored, runs: Sequence[Stands]) -> bool:
    """Return whether no run of a sweep is left to be made: none runs, waits or was interrupted."""
    tuning = stored.record.tuning
    if tuning is not None and (tuning.choices is None or tuning.looks is not None):
        return False  # what comes after the trials, or after a look, is known to the sweep alone
    return not any(run.state in ("running", "waiting", "lacks evaluations", "interrupted") for run in runs)


def lines(stored: Stored, found: Sequence[Stands], tasks: Tasks | None = None) -> Iterator[str]:
    """Yield the number of runs per state and stage, and the reasons of those that did not end well."""
    question = stored.record
    yield f"{question.name}: {question.question or question.command}"
    for stage in dict.fromkeys(one.cell.stage for one in found):
        of_stage = [one for one in found if one.cell.stage == stage]
        counts = Counter(one.state for one in of_stage)
        shown = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        yield f"  {stage or 'runs':<6} {len(of_stage)}: {shown}"
        for one in of_stage:
            if one.state in _TOLD_EACH:
                own = _own(one.cell.overrides, stored)
                yield f"    {one.state} {one.cell.recipe_id}/seed-{one.cell.seed} ({own}): {one.reason}"
        reasons = Counter(one.reason for one in of_stage if one.state == "waiting" and one.reason)
        for reason, number in reasons.most_common():
            yield f"    {number} waiting: {reason}"
    if question.tuning and question.tuning.choices is None:
        yield "  final  to be chosen when the trials have been made"
    yield from _expected_end(stored, found, tasks)


def document(stored: Stored, runs: Sequence[Stands]) -> dict[str, Any]:
    """Return the status as one JSON object.

    `sweep`, `question`, `command` name it; `counts` holds the number of runs per state; `runs` has one object per run
    with `stage` (tune, final or null), `recipe_id`, `seed`, `overrides`, `state` (running, waiting, lacks evaluations,
    interrupted, or the record's status), `reason` and `ended_well`.
    """
    return {
        "sweep": stored.record.name,
        "question": stored.record.question,
        "command": stored.record.command,
        "counts": dict(Counter(run.state for run in runs)),
        "runs": [
            {
                "stage": run.cell.stage,
                "recipe_id": run.cell.recipe_id,
                "seed": run.cell.seed,
                "overrides": list(run.cell.overrides),
                "state": run.state,
                "reason": run.reason,
                "ended_well": run.ended_well,
            }
            for run in runs
        ],
    }


def _expected_end(stored: Stored, found: Sequence[Stands], tasks: Tasks | None) -> Iterator[str]:
    """Yield the expected end from the mean time of finished runs; nothing if no run is in progress."""
    running = sum(one.state == "running" for one in found)
    waiting = sum(one.state == "waiting" for one in found)
    finished = [one.cell for one in found if one.state == "ok"] if running else []
    seconds = [took for cell in finished[-_ENOUGH:] if (took := stored.seconds(cell)) is not None]
    if not seconds:
        return
    allowed = tasks.submissions[-1].at_once if tasks and tasks.submissions else running
    at_once = max(1, min(allowed, running + waiting))
    left = timedelta(seconds=mean(seconds) * (running / 2 + waiting) / at_once)
    yield (
        f"  expected end {(datetime.now() + left).strftime('%Y-%m-%d %H:%M')}: {len(seconds)} runs took "
        f"{mean(seconds):.0f} s on average, {at_once} at once"
    )


def _own(overrides: Sequence[str], stored: Stored) -> str:
    """Return the words of a cell that are not arguments of the whole sweep."""
    given = set(stored.record.arguments or ())
    return " ".join(word for word in overrides if word not in given) or "the defaults"
