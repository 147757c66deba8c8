"""Costs as tables: the averages of each method, its compute, training speed, seeds, and what using a result costs."""

from collections.abc import Iterator, Sequence

from harness.report.analysis import axes
from harness.report.analysis.axes import trainings
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import METHOD, Group
from harness.report.display import GIBIBYTE, MEBIBYTE, collected, mean
from harness.report.document import Column, Missing, Number, Table, Value, value_text

PHASES = {"Loading": ("load",), "Training": ("train",), "Evaluation": ("validate", "evaluate", "generate")}
MODELS = ("plain", "attached", "merged")
SPEED_TEXT = (
    "FLOPs are counted on one optimizer step and scaled by the tokens of all timed steps, padding included. MFU: their "
    "rate relative to the highest throughput of several matrix products in the run's precision, measured before and "
    "after training. Energy: that of the whole device during training."
)
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


def compute(comparison: Comparison) -> Table:
    """Return the time of every attempt, the failed ones included, by what it was spent on, and the highest peaks."""
    rows = [_compute_row(group) for group in comparison.groups]
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
        "Compute of each method: sums over all seeds and attempts, failed and repeated ones included. Device hours: "
        "wall time of the attempts times their devices, without tuning, which has a column of its own."
    )
    named = ((group.cell, *row) for group, row in zip(comparison.groups, rows, strict=True))
    return Table.of(columns, named, "not recorded", caption=caption, label="compute", title="Compute").without_empty()


def seeds(comparison: Comparison) -> Table:
    """Return the seeds of each method with their scores on the question's task, and those without a result."""
    contest = next(iter(comparison.contests), None)
    scores = [Column("scores", f"{contest.name} by seed", contest.column.unit, text=True)] if contest else []
    lost = Column("failed_seeds", "Without a result", text=True)
    columns = (METHOD, Column("seeds", "Seeds", text=True), *scores, lost)
    rows: list[tuple[Value, ...]] = []
    for group in comparison.groups:
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
    failed = {(row.recipe_id, row.seed): (group, row) for group in comparison.groups for row in group.failed}
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
    caption = f"Training speed and energy. {SPEED_TEXT}"
    return Table.of(columns, rows, "not measured", caption=caption, label="speed") if rows else None


def without_mfu(groups: Sequence[Group]) -> list[str]:
    """Return a line for each reason of a missing MFU, with the groups without it."""
    reasons = collected(
        (reason, group.name)
        for group in groups
        if group.trained
        for reason in dict.fromkeys(run.device_peak.doubt for run in trainings(group) if run.device_peak)
        if reason
    )
    return [f"No MFU of {', '.join(who)}: {reason}." for reason, who in reasons.items()]


def inference_tables(groups: Sequence[Group]) -> list[Table]:
    """Tabulate speed and memory of each model, and the cost of merging and of further adapters; [] if unmeasured."""
    measured = [group for group in groups if group.ok and any(row.inference for row in group.rows)]
    columns = (
        METHOD,
        Column("model", "Model", text=True),
        Column("rows", "Rows", digits=0),
        Column("first_token", "First token", "ms", _MILLI),
        Column("tokens_per_second", "Tokens/s"),
        Column("weight_bytes", "Weights", "MiB", 1 / MEBIBYTE),
        Column("peak_memory_bytes", "Peak memory", "MiB", 1 / MEBIBYTE),
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
