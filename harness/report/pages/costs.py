"""Costs as tables: the averages of each method, its compute, training speed, seeds, and what using a result costs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from harness.records.record import Attempt, InferenceRecord, Served, Training
from harness.report.analysis import axes
from harness.report.analysis.axes import trainings
from harness.report.analysis.claims import MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.display import GIBIBYTE, MEBIBYTE, mean
from harness.report.document import Cell, Column, Missing, Number, Table, Text, value_text

PHASES = {"Loading": ("load",), "Training": ("train",), "Evaluation": ("validate", "evaluate", "generate")}
_MOST_SECONDS = 10_000  # of a column; longer times are in hours


def compute(comparison: Comparison) -> Table:
    """Return the time of every attempt, the failed ones included, by what it was spent on, and the highest peaks."""
    rows = tuple(_compute_row(group) for group in comparison.groups)
    longest = max((cell.value for row in rows for cell in row[3:6] if isinstance(cell, Number)), default=0.0)
    unit, scale = ("s", 1.0) if longest < _MOST_SECONDS else ("h", 1 / axes.HOUR)
    columns = (
        Column("method", "Method", text=True),
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
    return Table(columns, rows, caption=caption, label="compute", title="Compute").without_empty()


def seeds(comparison: Comparison) -> Table:
    """Return the seeds of each method with their scores on the question's task, and those without a result."""
    contest = next(iter(comparison.contests), None)
    scores = [Column("scores", f"{contest.name} by seed", contest.column.unit, text=True)] if contest else []
    columns = (
        Column("method", "Method", text=True),
        Column("seeds", "Seeds", text=True),
        *scores,
        Column("failed_seeds", "Without a result", text=True),
    )
    rows = []
    for group in comparison.groups:
        done = [str(row.seed) for row in group.rows if row.status == "ok"]
        lost = [str(row.seed) for row in group.every if row.status != "ok"]
        parts = (done, *([_by_seed(group, contest)] if contest else []), lost)
        cells = [Text(", ".join(part)) if part else Missing("none") for part in parts]
        rows.append((Text(group.name, group.label), *cells))
    caption = "Seeds of each method. The base model has no seed variance."
    return Table(columns, tuple(rows), caption=caption, label="seeds", title="Seeds").without_empty()


def _by_seed(group: Group, contest: MetricComparison) -> list[str]:
    scored = group.evaluations.get(contest.measure.eval_id, ()) if group.ok else ()
    metrics = (evaluation.record.metrics.get(contest.measure.metric) for evaluation in scored)
    digits = None if contest.column.unit else 4
    return [value_text(Number(metric.value, digits=digits), contest.column) for metric in metrics if metric]


def failures(comparison: Comparison) -> Table:
    """Return the runs without a result that do not go on, with their status and reason."""
    columns = (
        Column("method", "Method", text=True),
        Column("seed", "Seed", digits=0),
        Column("status", "Status", text=True),
        Column("reason", "Reason", text=True),
    )
    failed = {(row.recipe_id, row.seed): (group, row) for group in comparison.groups for row in group.failed}
    rows = tuple(
        (
            Text(group.name, group.label),
            Number(row.seed),
            Text(row.status or "missing"),
            Text(row.reason or "no reason recorded"),
        )
        for group, row in failed.values()
    )
    return Table(columns, rows, caption="Runs without a result.", label="failed_runs", title="Failed runs")


def _compute_row(group: Group) -> tuple[Cell, ...]:
    rows = list({row.seed: row for row in group.every}.values())
    attempts = [attempt for row in rows if row.record for attempt in row.record.attempts]
    times = [_total(attempts, phases) for phases in PHASES.values()]
    peaks = [attempt.peak_memory_bytes for attempt in attempts if attempt.peak_memory_bytes is not None]
    hours_spent = [spent for row in rows if (spent := axes.device_hours(row)) is not None]
    tuning, price = axes.tuning_hours(group.first), group.first.price
    cost = None if price is None or not hours_spent else (sum(hours_spent) + (tuning or 0.0)) * price
    return (
        Text(group.name, group.label),
        Number(len(attempts)),
        Number(sum(attempt.status != "ok" for attempt in attempts)),
        *map(_recorded, times),
        _recorded(sum(hours_spent) if hours_spent else None),
        _recorded(tuning),
        _recorded(max(peaks, default=None)),
        _recorded(cost),
    )


def _total(attempts: Iterable[Attempt], phases: Sequence[str]) -> float | None:
    """Return the seconds of the phases in all attempts; None where none has one."""
    seconds = [attempt.phases[name].seconds for attempt in attempts for name in phases if name in attempt.phases]
    return sum(seconds) if seconds else None


def _recorded(value: float | None) -> Cell:
    return Missing("not recorded") if value is None else Number(value)


GIGA = 1e9
SPEED_TEXT = (
    "FLOPs are counted on one optimizer step and scaled by the tokens of all timed steps, padding included. MFU: their "
    "rate relative to the highest throughput of several matrix products in the run's precision, measured before and "
    "after training. Energy: that of the whole device during training."
)


def speed_table(groups: Sequence[Group]) -> Table | None:
    """Return the table of speeds as means over the seeds; None where no rate is known."""
    rows: list[tuple[Cell, ...]] = []
    for group in groups:
        runs = trainings(group) if group.trained else []
        if any(run.flops_per_second for run in runs):
            known = (*_speed_rates(runs), _train_energy(group))
            cells = [Missing("not measured") if value is None else Number(value) for value in known]
            rows.append((Text(group.name, group.label), *cells))
    columns = (
        Column("method", "Method", text=True),
        Column("flops_per_second", "FLOP rate", "GFLOP/s", 1 / GIGA),
        Column("device_peak_flops_per_second", "Device peak", "GFLOP/s", 1 / GIGA),
        Column("mfu", "MFU", "%", 100.0, 1),
        Column("train_energy_joules", "Energy", "J"),
    )
    return (
        Table(columns, tuple(rows), caption=f"Training speed and energy. {SPEED_TEXT}", label="speed") if rows else None
    )


def without_mfu(groups: Sequence[Group]) -> list[str]:
    """Return a line for each reason of a missing MFU, with the groups without it."""
    found: dict[str, list[str]] = {}
    for group in groups:
        peaks = [training.device_peak for training in trainings(group)] if group.trained else []
        for reason in dict.fromkeys(peak.doubt for peak in peaks if peak and peak.doubt):
            found.setdefault(reason, []).append(group.name)
    return [f"No MFU of {', '.join(who)}: {reason}." for reason, who in found.items()]


def _speed_rates(runs: Sequence[Training]) -> tuple[float | None, float | None, float | None]:
    """Return operations per second, those of the device's peak, and their ratio."""
    return (
        mean(run.flops_per_second for run in runs),
        mean(run.device_peak.flops_per_second if run.device_peak else None for run in runs),
        mean(run.mfu for run in runs),
    )


def _train_energy(group: Group) -> float | None:
    phases = [row.current.phases.get("train") if row.current else None for row in group.rows]
    return mean(phase.energy_joules if phase else None for phase in phases)


MILLI = 1000
MODELS = ("plain", "attached", "merged")
INFERENCE_TEXT = (
    "Models: plain is the base model, attached has the update beside the weights, merged has it inside them. Greedy "
    "decoding; all rows of a batch have equally long prompts and outputs; medians over repeats after one warm-up. "
    "Tokens/s is the throughput of the whole batch, time to the first token included. Same answers: held-out prompts "
    "on which the merged model generates the same tokens as the attached one. Repetitive: outputs that repeat a unit "
    "four times or more. An additional adapter is a second one of the same kind on the same base; the switch is PEFT's "
    "set_adapter."
)


def inference_tables(groups: Sequence[Group]) -> list[Table]:
    """Tabulate speed and memory of each model, and the cost of merging and of further adapters; [] if unmeasured."""
    measured = [group for group in groups if group.ok and any(row.inference for row in group.rows)]
    columns = (
        Column("method", "Method", text=True),
        Column("model", "Model", text=True),
        Column("rows", "Rows", digits=0),
        Column("first_token", "First token", "ms", MILLI),
        Column("tokens_per_second", "Tokens/s"),
        Column("weight_bytes", "Weights", "MiB", 1 / MEBIBYTE),
        Column("peak_memory_bytes", "Peak memory", "MiB", 1 / MEBIBYTE),
    )
    speeds = tuple(row for group in measured for row in _speeds(group))
    beside = (
        Column("method", "Method", text=True),
        Column("same_answers", "Same answers"),
        Column("empty", "Empty"),
        Column("looping", "Repetitive"),
        Column("adapter_bytes", "Per additional adapter", "MiB", 1 / MEBIBYTE),
        Column("switch_seconds", "Adapter switch", "ms", MILLI),
        Column("remarks", "Remarks", text=True),
    )
    further = tuple(_beside(group) for group in measured if group.trained)
    made = (
        Table(columns, speeds, label="inference_cost", title="Inference cost"),
        Table(beside, further, label="merging", title="Merging and additional adapters"),
    )
    return [table for table in made if table.rows]


def _speeds(group: Group) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each model and batch size, means over the seeds."""
    measured = [row.inference for row in group.rows if row.inference]
    for name in sorted(measured[0].served, key=MODELS.index):
        served = [record.served[name] for record in measured if name in record.served]
        for i, speed in enumerate(served[0].speeds):
            values = (
                mean(model.speeds[i].time_to_first_token_seconds for model in served),
                mean(model.speeds[i].tokens_per_second for model in served),
                mean(model.weight_bytes for model in served),
                mean(model.peak_memory_bytes for model in served),
            )
            yield (Text(group.name, group.label), Text(name), Number(speed.batch_size), *map(_number, values))


def _beside(group: Group) -> tuple[Cell, ...]:
    measured = [row.inference for row in group.rows if row.inference]
    attached = [record.served["attached"] for record in measured if "attached" in record.served]
    remarks: dict[str, None] = {}
    for record in measured:
        unmeasured = (f"{name}: {reason}" for name, reason in record.unmeasured.items())
        remarks |= dict.fromkeys((record.unmerged_reason, record.alone_reason, *unmeasured))
    remarks.pop("", None)
    return (
        Text(group.name, group.label),
        _same(measured),
        _outputs(attached, "empty_outputs"),
        _outputs(attached, "looping_outputs"),
        _number(mean(record.further.bytes_per_adapter if record.further else None for record in measured)),
        _number(mean(record.further.switch_seconds if record.further else None for record in measured)),
        Text("; ".join(remarks)) if remarks else Missing(),
    )


def _number(value: float | None) -> Cell:
    return Missing("not measured") if value is None else Number(value)


def _same(measured: Sequence[InferenceRecord]) -> Cell:
    checked = [record for record in measured if record.equal_outputs is not None]
    total = sum(record.served["attached"].num_outputs for record in checked)
    return Text(f"{sum(record.equal_outputs or 0 for record in checked)} of {total}") if checked else Missing()


def _outputs(attached: Sequence[Served], name: str) -> Cell:
    return Text(f"{sum(getattr(cost, name) for cost in attached)} of {sum(cost.num_outputs for cost in attached)}")
