"""The appendix of a paper: hyper-parameters, prompts, tuning, all pairs, compute, seeds, versions and licenses.

Everything is computed from the records; a missing value is called not recorded.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.record import Attempt
from harness.report.analysis import doubts, hours, speed
from harness.report.analysis.axes import COSTS
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.tradeoff import FRONTIER, frontiers
from harness.report.analysis.verdicts import explained
from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import GIBIBYTE
from harness.report.document import Block, Bullets, Cell, Column, Command, Missing, Number, Section, Table, Text
from harness.report.pages import hyperparameters, matrix, notes, protocol, tuned

PHASES = {"loading": ("load",), "training": ("train",), "evaluation": ("validate", "evaluate", "generate")}
_MOST_SECONDS = 10_000  # of a column; longer times are in hours
HOURS = 1 / hours.HOUR


def sections(comparison: Comparison) -> list[Section]:
    """Return the sections; one without content is left out."""
    loaded, groups = comparison.loaded, comparison.groups
    settings = [hyperparameters.shared(comparison), hyperparameters.by_method(comparison)]
    searched = hyperparameters.searched(comparison)
    every = [
        Section("Hyper-parameters", tuple(one for one in settings if one)),
        Section("Prompt templates", tuple(hyperparameters.templates(comparison))),
        Section("Tuning", (*([searched] if searched else []), *_bullets(tuned.lines(loaded)))),
        Section("All pairs of methods", tuple(_pairs(comparison))),
        Section("Quality and every cost", tuple(_trade_offs(comparison))),
        Section("Compute", tuple(_compute(comparison))),
        Section("Seeds and failed runs", tuple(one for one in (seeds(comparison), failures(comparison)) if one)),
        Section("Evaluations", (Bullets(tuple(notes.looks(groups))),)),
        Section("Definitions", (Bullets(tuple(notes.definitions(groups))),)),
        Section("Models, data and licenses", (Bullets(tuple(_sources(comparison))),)),
        Section("Versions and machines", (Command(notes.command_of(loaded)), Bullets(tuple(notes.origin(loaded))))),
    ]
    return [section for section in every if section.blocks]


def pairs(comparison: Comparison) -> list[Table]:
    """Return the matrix of all pairs of each contest of the answer."""
    results = comparison.claims
    labels = ["pairs" if place == 0 else f"pairs-{place + 1}" for place in range(len(results))]
    found = (matrix.pairs(result, label) for result, label in zip(results, labels, strict=True))
    return [table for table in found if table]


def _pairs(comparison: Comparison) -> Iterable[Block]:
    yield from pairs(comparison)
    for result in comparison.claims:
        yield from _bullets(explained(result))


def _trade_offs(comparison: Comparison) -> Iterable[Block]:
    """Yield quality against every cost."""
    keys = [cost.key for cost in COSTS]
    tables = [frontiers(result, comparison.groups, keys) for result in comparison.claims]
    for table in tables:
        if table:
            yield table
            yield FRONTIER


def _bullets(lines: Sequence[str]) -> list[Block]:
    return [Bullets(tuple(lines))] if lines else []


def compute(comparison: Comparison) -> Table:
    """Return the time of every attempt, the failed ones included, by what it was spent on, and the highest peaks."""
    rows = tuple(_compute_row(group) for group in comparison.groups)
    longest = max((cell.value for row in rows for cell in row[3:6] if isinstance(cell, Number)), default=0.0)
    unit, scale = ("s", 1.0) if longest < _MOST_SECONDS else ("h", HOURS)
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
    return Table(
        columns,
        rows,
        caption="Compute of each method: sums over all seeds and attempts, failed and repeated ones included. Device "
        "hours are those of each attempt from its beginning to its end times its devices; those of tuning are apart.",
        label="compute",
        title="Compute",
    ).without_empty()


def _compute_row(group: Group) -> tuple[Cell, ...]:
    rows: list[Row] = list({row.seed: row for row in (*group.rows, *group.lost)}.values())
    attempts = [attempt for row in rows if row.record for attempt in row.record.attempts]
    times = [_total(attempts, phases) for phases in PHASES.values()]
    peaks = [one.peak_memory_bytes for one in attempts if one.peak_memory_bytes is not None]
    known = [spent for row in rows if (spent := hours.of_run(row)) is not None]
    tuning, price = hours.of_tuning(group.first), group.first.price
    cost = None if price is None or not known else (sum(known) + (tuning or 0.0)) * price
    return (
        Text(group.name, group.label),
        Number(len(attempts)),
        Number(sum(one.status != "ok" for one in attempts)),
        *map(_number, times),
        _number(sum(known) if known else None),
        _number(tuning),
        _number(max(peaks, default=None)),
        _number(cost),
    )


def _total(attempts: Iterable[Attempt], phases: Sequence[str]) -> float | None:
    """Return the seconds of the phases in all attempts; None where none has one."""
    found = [one.phases[name].seconds for one in attempts for name in phases if name in one.phases]
    return sum(found) if found else None


def _number(value: float | None) -> Cell:
    return Missing("not recorded") if value is None else Number(value)


def _compute(comparison: Comparison) -> Iterable[Block]:
    every = protocol.attempts(comparison)
    if not every:
        return
    total = sum(map(hours.device_seconds, every)) / hours.HOUR
    yield (
        f"In all {total:.2f} device hours in {len(every):,} attempts, those of tuning included, on "
        f"{', '.join(protocol.devices(every))}."
    )
    yield compute(comparison)
    if rates := speed.table(comparison.groups):
        yield rates
    yield from _bullets([*doubts.lines(comparison.groups), *speed.unknown(comparison.groups)])


def seeds(comparison: Comparison) -> Table:
    """Return the seeds of each method that have results, and those that have none."""
    columns = (
        Column("method", "Method", text=True),
        Column("seeds", "Seeds", text=True),
        Column("failed_seeds", "Without a result", text=True),
    )
    rows = []
    for group in comparison.groups:
        done = [str(row.seed) for row in group.rows if row.status == "ok"]
        lost = [str(row.seed) for row in (*group.rows, *group.lost) if row.status != "ok"]
        cells = [Text(", ".join(dict.fromkeys(part))) if part else Missing("none") for part in (done, lost)]
        rows.append((Text(group.name, group.label), *cells))
    caption = "Seeds of each method. The base model has no seed variance."
    return Table(columns, tuple(rows), caption=caption, label="seeds", title="Seeds").without_empty()


def failures(comparison: Comparison) -> Table | None:
    """Return the runs without a result, with their status and reason; None where every run has one."""
    lost = [(group, row) for group in comparison.groups for row in (*group.rows, *group.lost) if row.status != "ok"]
    if not lost:
        return None
    columns = (
        Column("method", "Method", text=True),
        Column("seed", "Seed", digits=0),
        Column("status", "Status", text=True),
        Column("reason", "Reason", text=True),
    )
    found = {(row.recipe_id, row.seed): (group, row) for group, row in lost}
    rows = tuple(
        (
            Text(group.name, group.label),
            Number(row.seed),
            Text(row.status or "missing"),
            Text(row.reason or "not recorded"),
        )
        for group, row in found.values()
    )
    return Table(columns, rows, caption="Runs without a result.", label="failed_runs", title="Failed runs")


def _sources(comparison: Comparison) -> list[str]:
    """Return the models, the training data, and the tasks' own data as far as their records name a license."""
    loaded = comparison.loaded
    licenses = {s.task: str(s.record.provenance.get("license") or "not recorded") for s in protocol.tasks(comparison)}
    of_tasks = [f"task {task}: license {license}" for task, license in licenses.items()]
    return [*notes.sources(loaded, "model"), *notes.sources(loaded, "data"), *of_tasks]
