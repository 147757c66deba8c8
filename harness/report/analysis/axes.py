"""Axes of a comparison: qualities, evaluated in the same way for every group, and costs.

An axis gives one number per group in the unit of the records, the mean over its seeds; None is unknown. Costs count the
device hours of every attempt, tuning included, and name the reasons to doubt a timing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.records.record import Attempt, Phase, RunRecord, Training
from harness.report import names
from harness.report.data.groups import Group, Measure, headline
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Loaded, Row
from harness.report.display import GIBIBYTE, MEBIBYTE, TERA, collected, mean, quantity
from harness.report.document import Column

if TYPE_CHECKING:
    from harness.stats import SeedEstimate


Quantity = Callable[[Row], float | None]
HOUR = 3600
OTHERS = 0.1  # share of the cores that other processes keep busy; timings vary by as much anyway
THROTTLED = 0.05  # share of a phase's seconds
TIMED = ("train", "validate", "evaluate", "generate", "inference")  # the phases whose seconds and rates are shown
HELD_BACK = 0.01  # share of a phase's seconds in which a limit held the GPU's clock down
# The power limit is not among them: it belongs to the card and holds for every run on it. These come and go.
LIMITS = ("thermal", "reliability")
SLOWED = ("hw_slowdown", "sw_thermal_slowdown", "hw_thermal_slowdown", "hw_power_brake_slowdown")
CPU, LIMIT, COMPANY, CLOCK = (
    "other processes kept part of the processor busy",
    "the control group's limit on processor time held the run back",
    "other processes computed on the GPU",
    "heat or power held the GPU's clock down",
)
HOLDERS = {  # the part of a run's record -> the quantities in it
    "fingerprint": ("trainable_parameters", "total_parameters", "saved_bytes"),
    "training": ("tokens_per_second", "train_seconds", "flops_per_second", "mfu"),
    "current": ("peak_memory_bytes", "required_memory_bytes"),
}


@dataclass(frozen=True)
class Quality:
    """One metric of one evaluation identity, and whether it should be high."""

    title: str
    role: str
    measure: Measure
    higher_is_better: bool
    task: str

    def of(self, group: Group) -> SeedEstimate | None:
        """Return the group's score with its standard error; None where it was not evaluated."""
        return group.score(self.measure) if group.ok else None

    def gain(self, group: Group) -> SeedEstimate | None:
        """Return the paired difference to the untouched model on the same items; None without such a pair."""
        return group.gain(self.measure) if group.trained else None


@dataclass(frozen=True)
class Cost:
    """Something that should be low, with the column that shows it."""

    column: Column
    of: Callable[[Group], float | None]

    @property
    def key(self) -> str:
        """Return its stable name."""
        return self.column.key


def score_column(task: str, metric: str, higher_is_better: bool) -> Column:
    """Return the column of scores in a table for people: percent with one decimal, or the number as it is."""
    name, short = names.metric(metric), names.task(task).short
    unit, scale, digits = ("%", 100.0, 1) if name.percent else ("", 1.0, None)
    title = short if name.percent else f"{short} {name.short}"
    return Column(f"{task}/{metric}", title, unit, scale, digits, "higher" if higher_is_better else "lower")


def gain_column(scores: Column) -> Column:
    """Return the column of differences between the scores of a column."""
    unit = "points" if scores.unit else ""
    return replace(scores, key=f"{scores.key}/difference", title="Difference", unit=unit, better="")


def trainings(group: Group) -> list[Training]:
    """Return the training of every seed that has one."""
    return [row.training for row in group.rows if row.training]


def peak_memory(group: Group) -> float | None:
    """Return the peak memory in bytes; None where the group has no numbers to show."""
    return _average(group, QUANTITIES["peak_memory_bytes"])


def required_memory(group: Group) -> float | None:
    """Return the bytes that a GPU must have; None on a CPU."""
    return _average(group, QUANTITIES["required_memory_bytes"])


def memory(group: Group) -> float | None:
    """Return the bytes that a device must have: on a GPU what its allocator held and the context, else the peak."""
    needed = required_memory(group)
    return peak_memory(group) if needed is None else needed


def on_gpu(groups: Iterable[Group]) -> bool:
    """Return whether `memory` is that which a GPU must have, for any of the groups."""
    return any(required_memory(group) is not None for group in groups)


def memory_spread(groups: Iterable[Group]) -> float:
    """Return the bytes by which the runs of one method differ at most; limits that are closer are one limit."""
    spread = 0.0
    for group in groups:
        measured = [QUANTITIES[name] for name in ("required_memory_bytes", "peak_memory_bytes")]
        runs = [next((used for read in measured if (used := read(row)) is not None), None) for row in group.rows]
        sizes = [used for used in runs if used is not None]
        spread = max(spread, max(sizes, default=0.0) - min(sizes, default=0.0))
    return spread


def _average(group: Group, read: Quantity) -> float | None:
    return mean(map(read, group.rows)) if group.measured else None


def cost(column: Column, read: Quantity | None = None) -> Cost:
    """Return a cost of groups that train: the mean over the seeds of a quantity, that of the column's key if None."""
    quantity = read or QUANTITIES[column.key]
    return Cost(column, lambda group: None if group.first.is_base else _average(group, quantity))


def qualities(
    groups: Sequence[Group],
    roles: Sequence[str] = ("target", "test", "validation", "retention"),
    first: Measure | None = None,
) -> list[Quality]:
    """The headline metric of each evaluation identity, role after role, in the order of the groups.

    `first` goes before them, where it is of such a role: what answers the question.
    """
    by_task: dict[str, ScoredEvaluation] = {}
    for group in groups:
        if group.ok:
            for eval_id, scored in group.evaluations.items():
                by_task.setdefault(eval_id, scored[0])
    every = [
        quality for role in roles for scored in by_task.values() if scored.role == role for quality in _quality(scored)
    ]
    requested = [
        scored
        for scored in by_task.values()
        if first and scored.comparison_key == first.eval_id and scored.role in roles
    ]
    ahead = [quality for scored in requested[:1] for quality in _quality(scored, first.metric if first else None)]
    return [*ahead, *(quality for quality in every if quality not in ahead)]


def _quality(scored: ScoredEvaluation, metric: str | None = None) -> list[Quality]:
    """Return the axis of the named metric, or of the headline metric; [] where the record does not have it."""
    metric = metric or ("loss" if scored.loss_only else headline(scored))
    if metric is None or metric not in scored.record.metrics:
        return []
    limit = scored.record.evaluation["limit"]
    title = f"{scored.task} {metric}" + ("" if limit is None else f" ({scored.record.num_items:,} items)")
    higher = scored.record.metrics[metric].higher_is_better
    return [Quality(title, scored.role, Measure(scored.comparison_key, metric), higher, scored.task)]


def device_seconds(attempt: Attempt) -> float:
    """Return the seconds of an attempt times its devices. An old record has only the seconds of its phases."""
    seconds = attempt.seconds
    if seconds is None:
        seconds = sum(phase.seconds for phase in attempt.phases.values())
    return seconds * attempt.devices


def device_hours(row: Row) -> float | None:
    """Return the device hours of all attempts, failed and evaluation-only ones included; None where unknown."""
    return _hours([row.record]) if row.record and row.record.origin is None else None


def tuning_hours(row: Row) -> float | None:
    """Return the device hours of the tuning trials behind this run (shared by its seeds); None if it was not tuned."""
    return _hours(row.trials) if row.trials else None


def hours_with_tuning(row: Row) -> float | None:
    """Return the device hours of a run and of its tuning; None where those of the run are unknown."""
    hours = device_hours(row)
    return None if hours is None else hours + (tuning_hours(row) or 0.0)


def cost_of_run(row: Row) -> float | None:
    """Return the cost of the run and of its tuning; None without a record or a price."""
    hours = hours_with_tuning(row)
    return None if hours is None or row.price is None else hours * row.price


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


def doubts_of_phase(phase: Phase) -> dict[str, str]:
    """Return each reason to doubt a phase's seconds with its amount; {} without any, or without measurements."""
    seen, doubts = phase.conditions, {}
    if seen is None:
        return {}
    if seen.cpu_cores and (seen.other_cpu_cores or 0) > OTHERS * seen.cpu_cores:
        doubts[CPU] = f"{quantity(seen.other_cpu_cores)} of {seen.cpu_cores} cores"
    if (seen.throttled_seconds or 0) > THROTTLED * phase.seconds:
        doubts[LIMIT] = f"{quantity(seen.throttled_seconds)} s"
    if seen.other_device_processes:
        doubts[COMPANY] = str(seen.other_device_processes)
    slowed = [reason for reason in seen.throttle_reasons or () if reason in SLOWED]
    limited = seen.limited_seconds or {}
    least = HELD_BACK * phase.seconds
    slowed += [f"{name} {quantity(limited[name])} s" for name in LIMITS if limited.get(name, 0) > least]
    if slowed:
        doubts[CLOCK] = ", ".join(slowed)
    return doubts


def timing_doubts(attempt: Attempt | None) -> dict[str, str]:
    """Return the reasons of an attempt's phases, each with the first phase that has it and the amount there."""
    phases = {name: phase for name in TIMED if (phase := attempt.phases.get(name))} if attempt else {}
    doubts: dict[str, str] = {}
    for name, phase in phases.items():
        for reason, amount in doubts_of_phase(phase).items():
            doubts.setdefault(reason, f"{amount} in {name}")
    return doubts


def timing_caveats(groups: Sequence[Group]) -> list[str]:
    """Return one line for each reason, with the groups that were timed under it."""
    doubted = collected(
        (reason, f"{group.name if len(group.rows) == 1 else f'{group.name} seed {row.seed}'} ({amount})")
        for group in groups
        if group.ok
        for row in group.rows
        for reason, amount in timing_doubts(row.current).items()
    )
    return [f"Timing caveat: {reason}: {'; '.join(who)}." for reason, who in doubted.items()]


def flops_per_position(training: Training | None) -> float | None:
    """Return the FLOPs of the profiled step over its positions, padding included; None without a profile."""
    if training is None or training.profile is None:
        return None
    return training.profile.flops / sum(rows * tokens for rows, tokens in training.profile.micro_batches)


def train_flops(row: Row) -> float | None:
    """Return the FLOPs of the whole training: those of a position times the positions of all steps."""
    rate = flops_per_position(row.training)
    return None if row.training is None or rate is None else rate * sum(row.training.padded_tokens)


def _held(part: str, name: str) -> Quantity:
    return lambda row: getattr(getattr(row, part), name, None)


QUANTITIES: dict[str, Quantity] = {
    **{name: _held(part, name) for part, held in HOLDERS.items() for name in held},
    "train_energy_joules": lambda row: row.train_energy,
    "train_flops": train_flops,
    "device_hours": device_hours,
    "tuning_device_hours": tuning_hours,
    "cost": cost_of_run,
}
"""What a run is measured by, in the units of the records; None is unknown."""

PEAK_MEMORY = cost(Column("peak_memory_bytes", "Peak memory", "GiB", 1 / GIBIBYTE, 2, "lower"))
TRAIN_SECONDS = cost(Column("train_seconds", "Training time", "s", better="lower"))
PARAMETERS = cost(Column("trainable_parameters", "Trained parameters", digits=0, better="lower"))
SAVED = cost(Column("saved_bytes", "Saved size", "MiB", 1 / MEBIBYTE, better="lower"))
COSTS = (
    PEAK_MEMORY,
    TRAIN_SECONDS,
    PARAMETERS,
    SAVED,
    cost(Column("train_energy_joules", "Training energy", "J", better="lower")),
    cost(Column("train_flops", "Training compute", "TFLOP", 1 / TERA, better="lower")),
    cost(Column("device_hours", "Device hours with tuning", better="lower"), hours_with_tuning),
    cost(Column("cost", "Cost with tuning", digits=2, better="lower")),
)
