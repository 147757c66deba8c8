"""Axes of a comparison: qualities, evaluated in the same way for every group, and costs.

An axis gives one number per group in the unit of the records, the mean over its seeds; None is unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from harness.records.record import Attempt, Training
from harness.report import names
from harness.report.analysis import hours
from harness.report.data.groups import Group, Measure, headline
from harness.report.data.items import ScoredEvaluation
from harness.report.display import GIBIBYTE, MEBIBYTE, TERA, mean
from harness.report.document import Column

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

Number = Callable[[Group], float | None]


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
    of: Number

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
    return [row.current.training for row in group.rows if row.current and row.current.training]


def memory(group: Group) -> float | None:
    """Return the bytes that a device must have: on a GPU what its allocator held and the context, else the peak."""
    needed = required_memory(group)
    return peak_memory(group) if needed is None else needed


def peak_memory(group: Group) -> float | None:
    """Return the peak memory in bytes; None where the group has no numbers to show."""
    return _mean(group, lambda attempt: attempt.peak_memory_bytes)


def required_memory(group: Group) -> float | None:
    """Return the bytes that a GPU must have; None on a CPU."""
    return _mean(group, lambda attempt: attempt.required_memory_bytes)


def _mean(group: Group, read: Callable[[Attempt], float | None]) -> float | None:
    return mean(read(row.current) if row.current else None for row in group.rows) if group.measured else None


def _training(read: Callable[[Attempt], float | None]) -> Number:
    """Return a number of groups that train, an interrupted one among them; it is None for any other group."""
    return lambda group: None if group.first.is_base else _mean(group, read)


def _fingerprint(name: str) -> Number:
    return _training(lambda attempt: getattr(attempt.fingerprint, name) if attempt.fingerprint else None)


def _energy(attempt: Attempt) -> float | None:
    phase = attempt.phases.get("train")
    return phase.energy_joules if phase else None


def _flops(attempt: Attempt) -> float | None:
    """Return the FLOPs of the whole training: those of the profiled step, scaled by the positions of all steps."""
    training = attempt.training
    if training is None or training.profile is None:
        return None
    positions = sum(rows * tokens for rows, tokens in training.profile.micro_batches)
    return training.profile.flops / positions * sum(training.padded_tokens)


def of_trained(number: Number) -> Number:
    """Restrict a number to groups that train, an interrupted one among them."""
    return lambda group: None if group.first.is_base or not group.measured else number(group)


PEAK_MEMORY = Cost(Column("peak_memory_bytes", "Peak memory", "GiB", 1 / GIBIBYTE, 2, "lower"), of_trained(peak_memory))
TRAIN_SECONDS = Cost(
    Column("train_seconds", "Training time", "s", better="lower"),
    _training(lambda attempt: attempt.training.train_seconds if attempt.training else None),
)
PARAMETERS = Cost(
    Column("trainable_parameters", "Trained parameters", digits=0, better="lower"), _fingerprint("trainable_parameters")
)
SAVED = Cost(Column("saved_bytes", "Saved size", "MiB", 1 / MEBIBYTE, better="lower"), _fingerprint("saved_bytes"))
COSTS = (
    PEAK_MEMORY,
    TRAIN_SECONDS,
    PARAMETERS,
    SAVED,
    Cost(Column("train_energy_joules", "Training energy", "J", better="lower"), _training(_energy)),
    Cost(Column("train_flops", "Training compute", "TFLOP", 1 / TERA, better="lower"), _training(_flops)),
    Cost(Column("device_hours", "Device hours with tuning", better="lower"), of_trained(hours.of_group)),
    Cost(Column("cost", "Cost with tuning", digits=2, better="lower"), of_trained(hours.cost_of_group)),
)


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
    every = [one for role in roles for scored in by_task.values() if scored.role == role for one in _quality(scored)]
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
    title = f"{scored.task} {metric}" + ("" if limit is None else f" ({scored.record.num_items} items)")
    higher = scored.record.metrics[metric].higher_is_better
    return [Quality(title, scored.role, Measure(scored.comparison_key, metric), higher, scored.task)]
