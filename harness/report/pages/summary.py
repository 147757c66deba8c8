"""Tables beside the main one: losses, costs, and every task with every metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

from harness.records.record import Training
from harness.report import names
from harness.report.data.groups import Group, Measure
from harness.report.data.items import ScoredEvaluation
from harness.report.display import MEBIBYTE, mean
from harness.report.document import Cell, Column, Missing, Number, Table, Text

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

GIB, MIB = 2**-30, 2**-20
OOM = Missing("out of memory", "OOM")


def losses(groups: Sequence[Group]) -> Table:
    """Return the validation loss, the test loss and the loss on general text, with paired differences to the base."""
    text = _general_text(groups)
    columns = [
        _method(),
        Column("seeds", "Seeds", priority=3),
        _loss_column("validation_loss", "Validation loss"),
        _loss_column("test_loss", "Test loss"),
        Column("test_loss/difference", "Delta to base", priority=2),
        *([_loss_column("general_text_loss", "General text loss")] if text else []),
        *([Column("general_text_loss/difference", "Delta to base", priority=4)] if text else []),
    ]
    rows = []
    for group in groups:
        validation, test = _loss(group, "validation"), _loss(group, "test")
        cells: list[Cell] = [_named(group), Text(group.num_seeds), _score(group, validation)]
        cells += [_score(group, test), _gain(group, test)]
        cells += [_score(group, same := _same_task(group, text)), _gain(group, same)] if text else []
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), label="losses", title="Losses")


def cost(groups: Sequence[Group]) -> Table:
    """Return the costs of the runs as means over the seeds.

    Where runs used a GPU, a column has the memory that a GPU must have, beside the peak that was allocated.
    """
    columns = (
        _method(),
        Column("trainable_parameters", "Trained parameters", digits=0),
        Column("trainable_share", "Share", "%", 100.0),
        Column("peak_memory_bytes", "Peak memory", "GiB", GIB, 2),
        Column("required_memory_bytes", "GPU memory needed", "GiB", GIB, 2),
        Column("tokens_per_second", "Tokens/s"),
        Column("train_seconds", "Training", "s"),
        Column("evaluation_seconds", "Evaluation", "s"),
        Column("saved_bytes", "Saved", "MiB", MIB),
    )
    rows = tuple((_named(group), *_cost(group)) for group in groups)
    return Table(columns, rows, label="cost", title="Cost").without_empty()


def tasks(groups: Sequence[Group]) -> list[Table]:
    """Return a table per task and setting, with every metric and its paired difference to the base."""
    scored = [group for group in groups if group.measured and not group.random_weights]
    eval_ids = dict.fromkeys(eval_id for group in scored for eval_id in group.evaluations)
    return [_task(eval_id, [group for group in scored if eval_id in group.evaluations]) for eval_id in eval_ids]


def _task(eval_id: str, members: Sequence[Group]) -> Table:
    first = members[0].evaluations[eval_id][0]
    metrics = [name for name in sorted(first.record.metrics) if name != "perplexity"]
    columns = [_method()]
    for name in metrics:
        known = names.metric(name)
        better = first.record.metrics[name].higher_is_better
        unit, scale, digits = ("%", 100.0, 1) if known.percent else ("", 1.0, None)
        columns.append(Column(name, known.short, unit, scale, digits, "higher" if better else "lower"))
        columns.append(Column(f"{name}/difference", "Delta to base", "points" if unit else "", scale, digits))
    columns += [Column("perplexity", "Perplexity", digits=2)] if first.heldout else []
    rows = []
    for group in members:
        measures = [Measure(eval_id, name) for name in metrics]
        cells = [cell for measure in measures for cell in (_score(group, measure), _gain(group, measure))]
        rows.append((_named(group), *cells, *([_perplexity(group, eval_id)] if first.heldout else [])))
    title = task_title(first)
    label = f"task_{first.task}".replace("/", "_")
    return Table(tuple(columns), tuple(rows), label=label, title=title).without_empty()


def task_title(scored: ScoredEvaluation) -> str:
    """Return the task and its evaluation settings."""
    record = scored.record
    parts = [scored.role, f"{record.num_items:,} items"]
    if record.num_tokens is not None:
        parts.append(f"{record.num_tokens:,} answer tokens")
    limit = record.evaluation["limit"]
    parts.append("no limit" if limit is None else f"limit {limit}")
    if not scored.heldout:
        parts.append("few-shot unknown" if record.num_fewshot is None else f"{record.num_fewshot}-shot")
    return f"{names.task(scored.task).display} ({', '.join(parts)})"


def peak_mebibytes(group: Group) -> float | None:
    """Peak memory, the mean over the seeds."""
    peak = mean(row.current.peak_memory_bytes if row.current else None for row in group.rows)
    return None if peak is None else peak / MEBIBYTE


def required_mebibytes(group: Group) -> float | None:
    """Return what a GPU must have, the mean over the seeds: torch's allocator at its highest, and the context."""
    required = mean(row.current.required_memory_bytes if row.current else None for row in group.rows)
    return None if required is None else required / MEBIBYTE


def trainings(group: Group) -> list[Training]:
    """The training of every seed that has one."""
    return [row.current.training for row in group.rows if row.current and row.current.training]


def _method() -> Column:
    return Column("method", "Method", text=True)


def _loss_column(key: str, title: str) -> Column:
    return Column(key, title, better="lower")


def _named(group: Group) -> Text:
    return Text(group.name, group.label, tone="" if group.ok else "bad")


def _missing(group: Group) -> Missing:
    return Missing("not evaluated" if group.ok else group.first.reason or group.status)


def _cost(group: Group) -> tuple[Cell, ...]:
    absent = _missing(group)
    if not group.measured:
        return (absent, absent, OOM if group.status == "oom" else absent, *(absent,) * 5)
    seconds = _number(group, mean(_evaluation_seconds(row.scored) for row in group.rows))
    prints = [row.current.fingerprint for row in group.rows if row.current and row.current.fingerprint]
    if group.first.is_base or not prints:
        return (*(absent,) * 6, seconds, absent)
    peak, required = peak_mebibytes(group), required_mebibytes(group)
    return (
        _number(group, mean(one.trainable_parameters for one in prints)),
        _number(group, mean(one.trainable_parameters / one.total_parameters for one in prints)),
        _number(group, peak and peak * MEBIBYTE),
        _number(group, required and required * MEBIBYTE),
        _number(group, mean(one.tokens_per_second for one in trainings(group))),
        _number(group, mean(one.train_seconds for one in trainings(group))),
        seconds,
        _number(group, mean(one.saved_bytes for one in prints)),
    )


def _number(group: Group, value: float | None) -> Cell:
    return _missing(group) if value is None else Number(value)


def _evaluation_seconds(scored: Sequence[ScoredEvaluation]) -> float | None:
    return sum(entry.record.seconds for entry in scored) if scored else None


def _general_text(groups: Sequence[Group]) -> ScoredEvaluation | None:
    """Return the loss on general text, where any group has it."""
    every = (s for group in groups if group.measured for s in group.role("retention"))
    return next((s for s in every if s.loss_only and "loss" in s.record.metrics), None)


def _same_task(group: Group, scored: ScoredEvaluation) -> Measure | None:
    """Return the group's own loss on the task: of the same evaluation if it has it."""
    same = [entry for entry in group.role(scored.role) if entry.task == scored.task] if group.measured else []
    best = sorted(same, key=lambda entry: entry.comparison_key != scored.comparison_key)
    return Measure(best[0].comparison_key, "loss") if best else None


def _loss(group: Group, role: str) -> Measure | None:
    scored = group.role(role) if group.measured else []
    return Measure(scored[0].comparison_key, "loss") if scored else None


def _score(group: Group, measure: Measure | None) -> Cell:
    return _estimate(group, group.score(measure) if measure and not group.random_weights else None)


def _gain(group: Group, measure: Measure | None) -> Cell:
    return _estimate(group, group.gain(measure) if measure and not group.random_weights else None, signed=True)


def _estimate(group: Group, value: SeedEstimate | None, signed: bool = False) -> Cell:
    return _missing(group) if value is None else Number(value.value, value.standard_error, signed=signed)


def _perplexity(group: Group, eval_id: str) -> Cell:
    """Return exp(loss), with the loss averaged over the seeds first."""
    loss = group.score(Measure(eval_id, "loss"))
    return _missing(group) if loss is None else Number(math.exp(loss.value))
