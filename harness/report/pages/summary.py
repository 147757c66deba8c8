"""Tables beside the main one: losses, costs, and every task with every metric."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.report import names
from harness.report.analysis import axes
from harness.report.analysis.axes import (
    PARAMETERS,
    PEAK_MEMORY,
    SAVED,
    TRAIN_SECONDS,
    Cost,
    gain_column,
    score_column,
    trainings,
)
from harness.report.data.groups import METHOD, Group, Measure, headline
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Row
from harness.report.display import GIBIBYTE, mean
from harness.report.document import Cell, Column, Missing, Number, Table, Text

if TYPE_CHECKING:
    from harness.stats import SeedEstimate


def losses(groups: Sequence[Group]) -> Table:
    """Return the validation loss, the test loss and the loss on general text, with paired differences to the base."""
    every = (s for group in groups if group.measured for s in group.role("retention"))
    text = next((s for s in every if s.loss_only and "loss" in s.record.metrics), None)  # the loss on general text
    columns = [
        METHOD,
        Column("seeds", "Seeds", priority=3),
        Column("validation_loss", "Validation loss", better="lower"),
        Column("test_loss", "Test loss", better="lower"),
        Column("test_loss/difference", "Delta to base", priority=2),
        *([Column("general_text_loss", "General text loss", better="lower")] if text else []),
        *([Column("general_text_loss/difference", "Delta to base", priority=4)] if text else []),
    ]
    rows = []
    for group in groups:
        validation, test = _loss(group, "validation"), _loss(group, "test")
        cells: list[Cell] = [_named(group), Text(group.num_seeds), _score(group, validation)]
        cells += [_score(group, test), _gain(group, test)]
        if text:
            own = group.own(text.role, text.task, Measure(text.comparison_key, "loss"))
            cells += [_score(group, own), _gain(group, own)]
        rows.append(tuple(cells))
    return Table(tuple(columns), tuple(rows), label="losses", title="Losses")


def cost(groups: Sequence[Group]) -> Table:
    """Return the costs of the runs as means over the seeds.

    Where runs used a GPU, a column has the memory that a GPU must have, beside the peak that was allocated.
    """
    measures = (
        PARAMETERS,
        Cost(Column("trainable_share", "Share", "%", 100.0), _trained_share),
        PEAK_MEMORY,
        axes.cost(Column("required_memory_bytes", "GPU memory needed", "GiB", 1 / GIBIBYTE, 2)),
        Cost(
            Column("tokens_per_second", "Tokens/s"),
            lambda group: mean(run.tokens_per_second for run in trainings(group)),
        ),
        TRAIN_SECONDS,
        Cost(Column("evaluation_seconds", "Evaluation", "s"), lambda group: mean(map(_seconds, group.rows))),
        SAVED,
    )
    columns = (METHOD, *(replace(measure.column, better="") for measure in measures))
    rows = tuple((_named(group), *(_cost(group, measure) for measure in measures)) for group in groups)
    return Table(columns, rows, label="cost", title="Cost").without_empty()


def tasks(groups: Sequence[Group]) -> list[Table]:
    """Return a table per task and setting, with every metric and its paired difference to the base."""
    scored = [group for group in groups if group.measured and not group.random_weights]
    eval_ids = dict.fromkeys(eval_id for group in scored for eval_id in group.evaluations)
    return [_task(eval_id, [group for group in scored if eval_id in group.evaluations]) for eval_id in eval_ids]


def _task(eval_id: str, members: Sequence[Group]) -> Table:
    first = members[0].evaluations[eval_id][0]
    metrics = [name for name in sorted(first.record.metrics) if name != "perplexity"]
    columns = [METHOD]
    for name in metrics:
        column = score_column(first.task, name, first.record.metrics[name].higher_is_better)
        columns.append(replace(column, key=name, title=names.metric(name).short))
        columns.append(replace(gain_column(column), key=f"{name}/difference", title="Delta to base"))
    columns += [Column("perplexity", "Perplexity", digits=2)] if first.heldout else []
    rows = []
    for group in members:
        measures = [Measure(eval_id, name) for name in metrics]
        cells = [cell for measure in measures for cell in (_score(group, measure), _gain(group, measure))]
        if first.heldout:  # with the loss averaged over the seeds first
            loss = group.score(Measure(eval_id, "loss"))
            cells.append(_missing(group) if loss is None else Number(math.exp(loss.value)))
        rows.append((_named(group), *cells))
    title = task_title(first)
    label = f"task_{first.task}".replace("/", "_")
    return Table(tuple(columns), tuple(rows), label=label, title=title).without_empty()


def task_title(scored: ScoredEvaluation) -> str:
    """Return the task and its evaluation settings: ARC-Easy: target, all 2,376 items, 0-shot, chance 25 %."""
    record = scored.record
    is_task = record.evaluation["kind"] == "lm_eval"
    part = "" if not is_task else "all " if record.evaluation["limit"] is None else "first "
    parts = [] if scored.heldout else [scored.role]  # the name of held-out rows says which they are
    parts.append(f"{part}{record.num_items:,} items")
    if record.num_tokens is not None:
        parts.append(f"{record.num_tokens:,} answer tokens")
    if is_task:
        parts.append("few-shot unknown" if record.num_fewshot is None else f"{record.num_fewshot}-shot")
    chance = metric.chance if (metric := record.metrics.get(headline(scored) or "")) else None
    parts += [] if chance is None else [f"chance {100 * chance:.3g} %"]
    return f"{names.task(scored.task).display}: {', '.join(parts)}"


def _named(group: Group) -> Text:
    return Text(group.name, group.label, tone="" if group.ok else "bad")


def _missing(group: Group) -> Missing:
    return Missing("not evaluated" if group.ok else group.first.reason or group.status)


def _cost(group: Group, measure: Cost) -> Cell:
    if group.status == "oom" and measure is PEAK_MEMORY:
        return Missing("out of memory", "OOM")
    value = measure.of(group) if group.measured else None
    return _missing(group) if value is None else Number(value)


def _trained_share(group: Group) -> float | None:
    prints = [row.current.fingerprint for row in group.rows if row.current and row.current.fingerprint]
    return None if group.first.is_base else mean(p.trainable_parameters / p.total_parameters for p in prints)


def _loss(group: Group, role: str) -> Measure | None:
    scored = group.role(role) if group.measured else []
    return Measure(scored[0].comparison_key, "loss") if scored else None


def _score(group: Group, measure: Measure | None) -> Cell:
    return _estimate(group, group.score(measure) if measure and not group.random_weights else None)


def _gain(group: Group, measure: Measure | None) -> Cell:
    return _estimate(group, group.gain(measure) if measure and not group.random_weights else None, signed=True)


def _estimate(group: Group, value: SeedEstimate | None, signed: bool = False) -> Cell:
    return _missing(group) if value is None else Number(value.value, value.standard_error, signed=signed)


def _seconds(row: Row) -> float | None:
    """Return the seconds of all evaluations; None without one, and where one of them does not say."""
    parts = [scored.record.seconds for scored in row.scored]
    known = [seconds for seconds in parts if seconds is not None]
    return sum(known) if known and len(known) == len(parts) else None
