"""Device hours of every attempt, tuning included, and what they cost at the user's price."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace

from harness.records.record import Attempt, RunRecord
from harness.report.data.groups import Group
from harness.report.data.rows import Loaded, Row
from harness.report.display import mean

HOUR = 3600
TEXT = (
    "Device hours are those of every attempt from its beginning to its end, failed ones and repeated evaluations "
    "included, times the processes that took part; tuning is shared by the seeds of a line. Cost is both at "
    "price_per_device_hour, where one is set."
)


def device_seconds(attempt: Attempt) -> float:
    """Return the seconds of an attempt times its devices. An old record has only the seconds of its phases."""
    seconds = attempt.seconds
    if seconds is None:
        seconds = sum(phase.seconds for phase in attempt.phases.values())
    return seconds * attempt.devices


def of_run(row: Row) -> float | None:
    """Return the device hours of all attempts, failed and evaluation-only ones included; None where unknown."""
    return _hours([row.record]) if row.record and row.record.origin is None else None


def of_tuning(row: Row) -> float | None:
    """Return the device hours of the tuning trials behind this run (shared by its seeds); None if it was not tuned."""
    return _hours(row.trials) if row.trials else None


def cost(row: Row) -> float | None:
    """Return the cost of the run and of its tuning; None without a record or a price."""
    hours = of_run(row)
    return None if hours is None or row.price is None else (hours + (of_tuning(row) or 0.0)) * row.price


def of_group(group: Group) -> float | None:
    """Return the device hours of one result: its tuning plus one run, the mean over the seeds."""
    return mean(None if (hours := of_run(row)) is None else hours + (of_tuning(row) or 0.0) for row in group.rows)


def cost_of_group(group: Group) -> float | None:
    """Return the cost of one result at the price of a device hour, the mean over the seeds."""
    return mean(cost(row) for row in group.rows)


def priced(loaded: Loaded, price: float | None) -> Loaded:
    """Return the rows with this price of a device hour; None keeps the price of the records."""
    return loaded if price is None else replace(loaded, rows=tuple(replace(row, price=price) for row in loaded.rows))


def with_trials(rows: Sequence[Row], trials: Sequence[Row]) -> list[Row]:
    """Return the rows with the trials behind each; a trial that is also a result counts as a result only."""
    results = {(row.recipe_id, row.seed) for row in rows}
    tried: dict[str | None, dict[tuple[str, int], RunRecord]] = {}
    for trial in trials:
        if trial.record and trial.cell and (trial.recipe_id, trial.seed) not in results:
            tried.setdefault(trial.cell.contestant, {})[trial.recipe_id, trial.seed] = trial.record
    return [
        replace(row, trials=tuple(tried.get(row.cell.contestant, {}).values())) if row.cell and row.cell.contestant
        else row
        for row in rows
    ]  # fmt: skip


def _hours(runs: Iterable[RunRecord]) -> float:
    return sum(device_seconds(attempt) for run in runs for attempt in run.attempts) / HOUR
