"""Axes of a plot: qualities, evaluated in the same way for every group, and costs.

An axis gives one number per group, the mean over its seeds; None is unknown and is left out of a plot.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.records.record import Attempt
from harness.report.analysis import hours
from harness.report.data.groups import Group, Measure, headline
from harness.report.data.items import ScoredEvaluation
from harness.report.display import MEGABYTE, TERA, mean
from harness.report.pages.summary import peak_mebibytes

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
    """Something that should be low; `logarithmic` where methods are orders of magnitude apart."""

    key: str
    title: str
    logarithmic: bool
    of: Number


def _fingerprint(name: str, unit: float = 1.0) -> Number:
    def number(group: Group) -> float | None:
        prints = [row.current.fingerprint if row.current else None for row in group.rows]
        found = mean(getattr(one, name) if one else None for one in prints)
        return None if found is None else found / unit

    return number


def _training(name: str) -> Number:
    def number(group: Group) -> float | None:
        attempts: list[Attempt | None] = [row.current for row in group.rows]
        return mean(getattr(one.training, name) if one and one.training else None for one in attempts)

    return number


def _trained(number: Number) -> Number:
    """Restrict a cost to groups that train, an interrupted one among them; it is None for any other group."""
    return lambda group: number(group) if group.measured and not group.first.is_base else None


def _energy(group: Group) -> float | None:
    phases = [row.current.phases.get("train") if row.current else None for row in group.rows]
    return mean(phase.energy_joules if phase else None for phase in phases)


def _teraflop(group: Group) -> float | None:
    """Return the TFLOPs of the whole training as a mean over the seeds; None where a seed was not profiled.

    The FLOPs per position of the profiled step are multiplied by the positions that all steps computed.
    """
    found = []
    for row in group.rows:
        training = row.current.training if row.current else None
        if training is None or training.profile is None:
            return None
        positions = sum(rows * tokens for rows, tokens in training.profile.micro_batches)
        found.append(training.profile.flops / positions * sum(training.padded_tokens) / TERA)
    return mean(found)


COSTS = (
    Cost("peak_memory_mebibytes", "Peak memory, MiB", False, _trained(peak_mebibytes)),
    Cost("train_seconds", "Training, s", False, _trained(_training("train_seconds"))),
    Cost("trainable_parameters", "Trained parameters", True, _trained(_fingerprint("trainable_parameters"))),
    Cost("saved_megabytes", "Saved, MB", True, _trained(_fingerprint("saved_bytes", MEGABYTE))),
    Cost("train_energy_joules", "Energy, J", False, _trained(_energy)),
    Cost("train_teraflop", "Operations, TFLOP", True, _trained(_teraflop)),
    Cost("device_hours", "Device hours, tuning included", False, _trained(hours.of_group)),
    Cost("cost", "Cost, tuning included", False, _trained(hours.cost_of_group)),
)


def qualities(
    groups: Sequence[Group],
    roles: Sequence[str] = ("target", "test", "validation", "retention"),
    first: Measure | None = None,
) -> list[Quality]:
    """The headline metric of each evaluation identity, role after role, in the order of the groups.

    `first` goes before them, where it is of such a role: what answers the question.
    """
    found: dict[str, ScoredEvaluation] = {}
    for group in groups:
        if group.ok:
            for eval_id, scored in group.evaluations.items():
                found.setdefault(eval_id, scored[0])
    every = [one for role in roles for scored in found.values() if scored.role == role for one in _quality(scored)]
    asked = [
        scored for scored in found.values() if first and scored.comparison_key == first.eval_id and scored.role in roles
    ]
    ahead = [one for scored in asked[:1] for one in _quality(scored, first.metric if first else None)]
    return [*ahead, *(one for one in every if one not in ahead)]


def _quality(scored: ScoredEvaluation, metric: str | None = None) -> list[Quality]:
    """Return the axis of the named metric, or of the headline metric; [] where the record does not have it."""
    metric = metric or ("loss" if scored.loss_only else headline(scored))
    if metric is None or metric not in scored.record.metrics:
        return []
    limit = scored.record.evaluation["limit"]
    title = f"{scored.task} {metric}" + ("" if limit is None else f" ({scored.record.num_items} items)")
    higher = scored.record.metrics[metric].higher_is_better
    return [Quality(title, scored.role, Measure(scored.comparison_key, metric), higher, scored.task)]
