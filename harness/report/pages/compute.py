"""Tables of what happened to the runs: the compute of each method, its seeds, and the runs without a result."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.record import Attempt
from harness.report.analysis import axes
from harness.report.analysis.claims import MetricComparison
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.display import GIBIBYTE
from harness.report.document import Cell, Column, Missing, Number, Table, Text, value_text

PHASES = {"loading": ("load",), "training": ("train",), "evaluation": ("validate", "evaluate", "generate")}
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
        *(Column(f"{name}_seconds", name, unit, scale, spanner="Time in") for name in PHASES),
        Column("device_hours", "Device hours"),
        Column("tuning_device_hours", "of tuning"),
        Column("peak_memory_bytes", "Peak memory", "GiB", 1 / GIBIBYTE, 2),
        Column("cost", "Cost", digits=2),
    )
    caption = (
        "Compute of each method: sums over all seeds and attempts, failed and repeated ones included. Device hours are "
        "those of each attempt from its beginning to its end times its devices; those of tuning are apart."
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
    known = [spent for row in rows if (spent := axes.device_hours(row)) is not None]
    tuning, price = axes.tuning_hours(group.first), group.first.price
    cost = None if price is None or not known else (sum(known) + (tuning or 0.0)) * price
    return (
        Text(group.name, group.label),
        Number(len(attempts)),
        Number(sum(attempt.status != "ok" for attempt in attempts)),
        *map(_number, times),
        _number(sum(hours_spent) if hours_spent else None),
        _number(tuning),
        _number(max(peaks, default=None)),
        _number(cost),
    )


def _total(attempts: Iterable[Attempt], phases: Sequence[str]) -> float | None:
    """Return the seconds of the phases in all attempts; None where none has one."""
    seconds = [attempt.phases[name].seconds for attempt in attempts for name in phases if name in attempt.phases]
    return sum(seconds) if seconds else None


def _number(value: float | None) -> Cell:
    return Missing("not recorded") if value is None else Number(value)
