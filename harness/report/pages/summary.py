"""The tables that people read: groups as cells of plain text. The caller escapes them."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

from harness.records.record import Fingerprint, Training
from harness.records.untrusted import shortened
from harness.report.data.groups import Group, Measure, headline
from harness.report.data.items import Scored
from harness.report.data.rows import Row
from harness.report.display import DASH, MEBIBYTE, MEGABYTE, OOM, decimals, estimate, mean, percent, quantity

LOSS_DIGITS, SCORE_DIGITS = 4, 3

REQUIRED = "GPU memory needed, MiB"


@dataclass(frozen=True)
class Table:
    """A header and lines of equal length."""

    title: str
    header: tuple[str, ...]
    lines: tuple[tuple[str, ...], ...]
    note: str = ""  # must be printed with the table


def quality(groups: Sequence[Group], ties: Mapping[str, str] | None = None) -> Table:
    """Losses, the first target task, the first retention task and general text, with paired differences to base.

    `ties` holds the letters of the ranked rows: methods that share one do not differ significantly.
    """
    header = ["Method", "Seeds", "Validation loss", "Test loss", "Test loss vs base"]
    shown = [first for role in ("target", "retention") if (first := _first(groups, role))]
    for scored in shown:
        header += [f"{scored.task} {headline(scored)}", "vs base"]
    if (text := _general_text(groups)) is not None:
        shown.append(text)
        header += ["General text loss", "vs base"]
    status = any(not group.ok or group.random_weights for group in groups)
    extra = [*(["Ties"] if ties else []), *(["Status"] if status else [])]
    lines = []
    for group in groups:
        letters = [(ties or {}).get(group.label, DASH)] if ties else []
        if group.random_weights:
            lines.append((group.label, str(len(group.rows)), *[DASH] * (len(header) - 2), *letters, _status(group)))
            continue
        cells = [_score(group, _loss(group, "validation")), *_score_and_difference(group, _loss(group, "test"))]
        for scored in shown:
            cells += _score_and_difference(group, _same_task(group, scored))
        seeds = group.num_seeds
        lines.append((group.label, seeds, *cells, *letters, *([_status(group)] if status else [])))
    return Table("Quality", (*header, *extra), tuple(lines))


def cost(groups: Sequence[Group]) -> Table:
    """Return the costs of the runs as means over the seeds: a dash is an unknown value, OOM a run that did not fit.

    Where runs used a GPU, a column has the memory that a GPU must have, beside the peak that was allocated.
    """
    header = (
        "Method",
        "Trained parameters",
        "Share, %",
        "Peak memory, MiB",
        REQUIRED,
        "Tokens/s",
        "Training, s",
        "Evaluation, s",
        "Saved, MB",
    )
    table = Table("Cost", header, tuple((group.label, *_cost(group)) for group in groups))
    on_gpu = any(required_mebibytes(group) is not None for group in groups)
    return table if on_gpu else _without(table, REQUIRED)


def _without(table: Table, column: str) -> Table:
    place = table.header.index(column)
    header, *lines = (line[:place] + line[place + 1 :] for line in (table.header, *table.lines))
    return replace(table, header=header, lines=tuple(lines))


def tasks(groups: Sequence[Group]) -> list[Table]:
    """One table per task and setting, with every metric and its paired difference to base."""
    tables = []
    scored = [group for group in groups if group.measured and not group.random_weights]
    for eval_id in dict.fromkeys(eval_id for group in scored for eval_id in group.evaluations):
        members = [group for group in scored if eval_id in group.evaluations]
        first = members[0].evaluations[eval_id][0]
        metrics = [name for name in sorted(first.record.metrics) if name != "perplexity"]
        header = ["Method", *(cell for name in metrics for cell in (name, f"{name} vs base"))]
        if first.heldout:
            header.append("Perplexity")
        lines = []
        for group in members:
            measures = [Measure(eval_id, name) for name in metrics]
            cells = [cell for measure in measures for cell in _score_and_difference(group, measure)]
            lines.append((group.label, *cells, *([_perplexity(group, eval_id)] if first.heldout else [])))
        tables.append(without_empty(Table(task_title(first), tuple(header), tuple(lines))))
    return tables


def without_empty(table: Table) -> Table:
    """Return the table without its empty columns."""
    kept = [i for i in range(len(table.header)) if any(line[i] != DASH for line in table.lines)]
    lines = tuple(tuple(line[i] for i in kept) for line in table.lines)
    return replace(table, header=tuple(table.header[i] for i in kept), lines=lines)


def task_title(scored: Scored) -> str:
    """Return the task and its evaluation settings."""
    record = scored.record
    parts = [scored.role, f"{record.num_items:,} items"]
    if record.num_tokens is not None:
        parts.append(f"{record.num_tokens:,} answer tokens")
    limit = record.evaluation["limit"]
    parts.append("no limit" if limit is None else f"limit {limit}")
    if not scored.heldout:
        parts.append("few-shot unknown" if record.num_fewshot is None else f"{record.num_fewshot}-shot")
    return f"{scored.task} ({', '.join(parts)})"


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


def _cost(group: Group) -> tuple[str, ...]:
    if not group.measured:
        return (DASH, DASH, OOM if group.first.status == "oom" else DASH, *(DASH,) * 5)
    seconds = quantity(mean(_evaluation_seconds(row) for row in group.rows))
    prints = [row.current.fingerprint for row in group.rows if row.current and row.current.fingerprint]
    if group.first.is_base or not prints:
        return (*(DASH,) * 6, seconds, DASH)
    saved = mean(one.saved_bytes for one in prints)
    return (
        _counts(prints, lambda one: f"{one.trainable_parameters:,}"),
        _counts(prints, lambda one: percent(one.trainable_parameters, one.total_parameters)),
        quantity(peak_mebibytes(group)),
        quantity(required_mebibytes(group)),
        quantity(mean(one.tokens_per_second for one in trainings(group))),
        quantity(mean(one.train_seconds for one in trainings(group))),
        seconds,
        quantity(None if saved is None else saved / MEGABYTE),
    )


def _counts(prints: Sequence[Fingerprint], shown: Callable[[Fingerprint], str]) -> str:
    """Return a count once where it is the same for every seed, else the counts of all seeds."""
    return ", ".join(dict.fromkeys(shown(one) for one in prints))


def _evaluation_seconds(row: Row) -> float | None:
    return sum(scored.record.seconds for scored in row.scored) if row.scored else None


def _first(groups: Sequence[Group], role: str) -> Scored | None:
    """Return the first task of a role that any group has."""
    return next((s for group in groups if group.ok for s in group.role(role) if headline(s)), None)


def _general_text(groups: Sequence[Group]) -> Scored | None:
    """Return the loss on general text, where any group has it."""
    every = (s for group in groups if group.ok for s in group.role("retention"))
    return next((s for s in every if s.loss_only and "loss" in s.record.metrics), None)


def _same_task(group: Group, scored: Scored) -> Measure | None:
    """The group's own evaluation of the task: the same one if it has it."""
    found = [s for s in group.role(scored.role) if s.task == scored.task] if group.measured else []
    best = sorted(found, key=lambda s: s.asked_id != scored.asked_id)
    return Measure(best[0].asked_id, "loss" if scored.loss_only else headline(scored) or "") if best else None


def _loss(group: Group, role: str) -> Measure | None:
    found = group.role(role) if group.measured else []
    return Measure(found[0].asked_id, "loss") if found else None


def _digits(group: Group, measure: Measure) -> int:
    return LOSS_DIGITS if group.evaluations[measure.eval_id][0].loss_only else SCORE_DIGITS


def _score(group: Group, measure: Measure | None) -> str:
    return DASH if measure is None else estimate(group.score(measure), _digits(group, measure))


def _score_and_difference(group: Group, measure: Measure | None) -> tuple[str, str]:
    """The score, and its difference to the untouched model on the same items."""
    if measure is None or group.first.is_base or not group.base(measure.eval_id):
        return _score(group, measure), DASH
    return _score(group, measure), estimate(group.gain(measure), _digits(group, measure), signed=True)


def _perplexity(group: Group, eval_id: str) -> str:
    """exp(loss), with the loss averaged over the seeds first."""
    loss = group.score(Measure(eval_id, "loss"))
    return (
        DASH
        if loss is None
        else decimals(math.exp(loss.value), 2)
        if loss.value < 20
        else f"{math.exp(loss.value):.3g}"
    )


def _status(group: Group) -> str:
    if group.random_weights:
        return "random weights: no scores"
    if group.ok or group.measured:
        return str(group.first.status)
    return shortened(f"{group.first.status or 'missing'}: {group.first.reason}")
