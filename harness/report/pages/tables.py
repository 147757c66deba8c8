"""Tables beside the main one: losses, every task with every metric, costs, compute, speed, seeds, and inference."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
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
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import METHOD, Group, Measure, headline
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Row
from harness.report.display import GIBIBYTE, MEBIBYTE, collected, mean
from harness.report.document import ALIKE, Cell, Column, Missing, Note, Number, Table, Text, Value, value_text

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

PHASES = {"Loading": ("load",), "Training": ("train",), "Evaluation": ("validate", "evaluate", "generate")}
MODELS = ("plain", "attached", "merged")
SPEED_TEXT = (
    "FLOPs are counted on one optimizer step and scaled by the tokens of all timed steps, padding included. MFU: their "
    "rate relative to the highest throughput of several matrix products in the run's precision, measured before and "
    "after training."
)
TASKS_TEXT = (
    "Scores \N{PLUS-MINUS SIGN} one standard error over items, and over seeds where a method has several. Delta to "
    "base: the score minus that of the base model on the same items, with the standard error of this paired difference."
)
ENERGY_TEXT = " Energy: that of the whole device during training."
INFERENCE_TEXT = (
    "Models: plain is the base model, attached has the update beside the weights, merged has it inside them. Greedy "
    "decoding; all rows of a batch have equally long prompts and outputs; medians over repeats after one warm-up. "
    "Tokens/s is the throughput of the whole batch, time to the first token included. Same answers: held-out prompts "
    "on which the merged model generates the same tokens as the attached one. Repetitive: outputs that repeat a unit "
    "four times or more. An additional adapter is a second one of the same kind on the same base; the switch is PEFT's "
    "set_adapter."
)
_GIGA, _MILLI = 1e9, 1000
_MOST_SECONDS = 10_000  # of a column; longer times are in hours


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
    caption = (
        "Losses in nats per answer token, \N{PLUS-MINUS SIGN} one standard error. Delta: loss minus that of the base "
        "model on the same items."
    )
    return Table(tuple(columns), tuple(rows), caption=caption, label="losses", title="Losses")


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
    caption = (
        "Cost of each method, means over its seeds. Training time: that of the optimizer steps alone; evaluation: all "
        "evaluations of a run."
    )
    return Table(columns, rows, caption=caption, label="cost", title="Cost").without_empty()


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
    columns += [Column("perplexity", "Perplexity")] if first.heldout else []
    rows = []
    for group in members:
        measures = [Measure(eval_id, name) for name in metrics]
        cells = [cell for measure in measures for cell in (_score(group, measure), _gain(group, measure))]
        if first.heldout:  # with the loss averaged over the seeds first
            loss = group.score(Measure(eval_id, "loss"))
            cells.append(_missing(group) if loss is None else Number(math.exp(loss.value)))
        rows.append((_named(group), *cells))
    title = task_title(first)
    table = Table(tuple(columns), tuple(rows), label=task_label(first.task), title=title).without_empty()
    return replace(table, notes=(Note(ALIKE),)) if table.has_alike else table


def task_label(task: str) -> str:
    """Return the label of a task's table: a name of a file and of a LaTeX label, whatever the task is called."""
    return f"task_{re.sub(r'[^0-9A-Za-z]+', '_', task)}"


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
    measured = [seconds for seconds in parts if seconds is not None]
    return sum(measured) if measured and len(measured) == len(parts) else None


def compute(comparison: Comparison) -> Table:
    """Return the time of every attempt, the failed ones included, by what it was spent on, and the highest peaks."""
    rows = [_compute_row(group) for group in comparison.ordered]
    longest = max((seconds for row in rows for seconds in row[2:5] if seconds is not None), default=0.0)
    unit, scale = ("s", 1.0) if longest < _MOST_SECONDS else ("h", 1 / axes.HOUR)
    columns = (
        METHOD,
        Column("attempts", "Attempts", digits=0),
        Column("failed", "Failed", digits=0),
        *(Column(f"{name.lower()}_seconds", name, unit, scale, spanner="Time") for name in PHASES),
        Column("device_hours", "Device hours"),
        Column("tuning_device_hours", "Tuning hours"),
        Column("peak_memory_bytes", "Peak memory", "GiB", 1 / GIBIBYTE, 2),
        Column("cost", "Cost", digits=2),
    )
    caption = (
        "Compute of each method: sums over all seeds and attempts, failed and repeated ones included. Times are those "
        "of whole phases. Device hours: wall time of the attempts times their devices, without tuning."
    )
    named = ((group.cell, *row) for group, row in zip(comparison.ordered, rows, strict=True))
    return Table.of(columns, named, "not recorded", caption=caption, label="compute", title="Compute").without_empty()


def seeds(comparison: Comparison) -> Table:
    """Return the seeds of each method with their scores on the question's task, and those without a result."""
    contest = next(iter(comparison.contests), None)
    scores = [Column("scores", f"{contest.name} by seed", contest.column.unit, text=True)] if contest else []
    lost = Column("failed_seeds", "Without a result", text=True)
    columns = (METHOD, Column("seeds", "Seeds", text=True), *scores, lost)
    rows: list[tuple[Value, ...]] = []
    for group in comparison.ordered:
        parts = [[str(row.seed) for row in group.rows if row.status == "ok"]]
        if contest:
            scored = group.evaluations.get(contest.measure.eval_id, ()) if group.ok else ()
            metrics = (evaluation.record.metrics.get(contest.measure.metric) for evaluation in scored)
            digits = None if contest.column.unit else 4
            parts.append([value_text(Number(m.value, digits=digits), contest.column) for m in metrics if m])
        parts.append([str(row.seed) for row in group.every if row.status != "ok"])
        rows.append((group.cell, *(", ".join(part) or None for part in parts)))
    caption = "Seeds of each method. The base model has no seed variance."
    return Table.of(columns, rows, "none", caption=caption, label="seeds", title="Seeds").without_empty()


def failures(comparison: Comparison) -> Table:
    """Return the runs without a result that do not go on, with their status and reason."""
    words = [Column(name.lower(), name, text=True) for name in ("Status", "Reason")]
    failed = {(row.recipe_id, row.seed): (group, row) for group in comparison.ordered for row in group.failed}
    rows = (
        (group.cell, row.seed, row.status or "missing", row.reason or "no reason recorded")
        for group, row in failed.values()
    )
    columns = (METHOD, Column("seed", "Seed", digits=0), *words)
    return Table.of(columns, rows, caption="Runs without a result.", label="failed_runs", title="Failed runs")


def _compute_row(group: Group) -> list[float | None]:
    rows = list({row.seed: row for row in group.every}.values())
    attempts = [attempt for row in rows if row.record for attempt in row.record.attempts]
    seconds = {
        part: [attempt.phases[name].seconds for attempt in attempts for name in phases if name in attempt.phases]
        for part, phases in PHASES.items()
    }
    peaks = [attempt.peak_memory_bytes for attempt in attempts if attempt.peak_memory_bytes is not None]
    hours_spent = [spent for row in rows if (spent := axes.device_hours(row)) is not None]
    tuning, price = axes.tuning_hours(group.first), group.first.price
    cost = None if price is None or not hours_spent else (sum(hours_spent) + (tuning or 0.0)) * price
    counts = [len(attempts), sum(attempt.status != "ok" for attempt in attempts)]
    times = [sum(spent) if spent else None for spent in (*seconds.values(), hours_spent)]
    return [*counts, *times, tuning, max(peaks, default=None), cost]


def speed_table(groups: Sequence[Group]) -> Table | None:
    """Return the table of speeds as means over the seeds; None where no rate is known."""
    rows: list[tuple[Value, ...]] = []
    for group in groups:
        runs = trainings(group) if group.trained else []
        if any(run.flops_per_second for run in runs):
            peak = mean(run.device_peak.flops_per_second if run.device_peak else None for run in runs)
            rates = (mean(run.flops_per_second for run in runs), peak, mean(run.mfu for run in runs))
            rows.append((group.cell, *rates, mean(row.train_energy for row in group.rows)))
    columns = (
        METHOD,
        Column("flops_per_second", "FLOP rate", "GFLOP/s", 1 / _GIGA),
        Column("device_peak_flops_per_second", "Device peak", "GFLOP/s", 1 / _GIGA),
        Column("mfu", "MFU", "%", 100.0, 1),
        Column("train_energy_joules", "Energy", "J"),
    )
    if not rows:
        return None
    table = Table.of(columns, rows, "not measured", label="speed").without_empty()
    if columns[-1].key in table.keys:
        return replace(table, caption=f"Training speed and energy. {SPEED_TEXT}{ENERGY_TEXT}")
    return replace(table, caption=f"Training speed. {SPEED_TEXT}")


def without_mfu(groups: Sequence[Group]) -> list[str]:
    """Return a line for each reason of a missing MFU, with the groups without it."""
    reasons = collected(
        (reason, group.name)
        for group in groups
        if group.trained
        for reason in dict.fromkeys(run.device_peak.doubt for run in trainings(group) if run.device_peak)
        if reason
    )
    return [f"No MFU for {', '.join(who)}: {reason}." for reason, who in reasons.items()]


def inference_tables(groups: Sequence[Group]) -> list[Table]:
    """Tabulate speed and memory of each model, and the cost of merging and of further adapters; [] if unmeasured."""
    measured = [group for group in groups if group.ok and any(row.inference for row in group.rows)]
    columns = (
        METHOD,
        Column("model", "Model", text=True),
        Column("rows", "Rows", digits=0),
        Column("first_token", "First token", "ms", _MILLI),
        Column("tokens_per_second", "Tokens/s"),
        Column("weight_bytes", "Weights", "GiB", 1 / GIBIBYTE, 2),
        Column("peak_memory_bytes", "Peak memory", "GiB", 1 / GIBIBYTE, 2),
    )
    beside = (
        METHOD,
        Column("same_answers", "Same answers"),
        Column("empty", "Empty"),
        Column("looping", "Repetitive"),
        Column("adapter_bytes", "Per additional adapter", "MiB", 1 / MEBIBYTE),
        Column("switch_seconds", "Adapter switch", "ms", _MILLI),
        Column("remarks", "Remarks", text=True),
    )
    speeds = (row for group in measured for row in _speeds(group))
    further = (_beside(group) for group in measured if group.trained)
    made = (
        Table.of(columns, speeds, "not measured", label="inference_cost", title="Inference cost"),
        Table.of(beside, further, "not measured", label="merging", title="Merging and additional adapters"),
    )
    return [table for table in made if table.rows]


def _speeds(group: Group) -> Iterator[tuple[Value, ...]]:
    """Yield a row for each model and batch size, means over the seeds."""
    measured = [row.inference for row in group.rows if row.inference]
    for name in sorted(measured[0].served, key=MODELS.index):
        served = [record.served[name] for record in measured if name in record.served]
        for i, speed in enumerate(served[0].speeds):
            yield (
                group.cell,
                name,
                speed.batch_size,
                mean(model.speeds[i].time_to_first_token_seconds for model in served),
                mean(model.speeds[i].tokens_per_second for model in served),
                mean(model.weight_bytes for model in served),
                mean(model.peak_memory_bytes for model in served),
            )


def _beside(group: Group) -> tuple[Value, ...]:
    measured = [row.inference for row in group.rows if row.inference]
    attached = [record.served["attached"] for record in measured if "attached" in record.served]
    remarks: dict[str, None] = {}
    for record in measured:
        unmeasured = (f"{name}: {reason}" for name, reason in record.unmeasured.items())
        remarks |= dict.fromkeys((record.unmerged_reason, record.alone_reason, *unmeasured))
    remarks.pop("", None)
    checked = [record for record in measured if record.equal_outputs is not None]
    equal = sum(record.equal_outputs or 0 for record in checked)
    compared = sum(record.served["attached"].num_outputs for record in checked)
    outputs = sum(served.num_outputs for served in attached)
    return (
        group.cell,
        f"{equal} of {compared}" if checked else Missing(),
        f"{sum(served.empty_outputs for served in attached)} of {outputs}",
        f"{sum(served.looping_outputs for served in attached)} of {outputs}",
        mean(record.further.bytes_per_adapter if record.further else None for record in measured),
        mean(record.further.switch_seconds if record.further else None for record in measured),
        "; ".join(remarks) if remarks else Missing(),
    )
