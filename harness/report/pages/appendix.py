"""The appendix of a paper: every setting, the tuning, the compute, seeds, versions, licenses and the usual checklist.

Everything is computed from the records; a missing value is called unknown.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from harness.records.record import Attempt, Phase
from harness.report.analysis import doubts, hours, speed
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import every_pair
from harness.report.data.groups import Group
from harness.report.data.labels import short
from harness.report.data.rows import Loaded, Row, flatten
from harness.report.display import DASH, MEBIBYTE, quantity
from harness.report.figures.sensitivity import rate_series
from harness.report.pages import notes, tuned
from harness.report.pages.checklist import checklist
from harness.report.pages.summary import Table, without_empty
from harness.report.writers.blocks import Block, Bullets, Command, Section

PHASES = ("load", "train", "validate", "evaluate", "generate")


def sections(comparison: Comparison) -> list[Section]:
    """The appendix of these rows."""
    loaded, groups = comparison.loaded, comparison.groups
    return [
        Section("Settings", _settings(groups)),
        Section("Tuning", tuned.appendix(loaded) or _tuning(groups)),
        *_pairs(comparison),
        Section("Compute", _compute(loaded, groups)),
        Section("Seeds", _seeds(groups)),
        Section("Evaluations", (Bullets(tuple(notes.looks(groups))),)),
        Section("Definitions", (Bullets(tuple(notes.definitions(groups))),)),
        Section("Models, data and licenses", (Bullets(tuple(_sources(loaded, groups))),)),
        Section("Versions and machines", (Command(notes.command_of(loaded)), Bullets(tuple(notes.origin(loaded))))),
        Section("Reproducibility checklist", (checklist(loaded, groups),)),
    ]


def _pairs(comparison: Comparison) -> list[Section]:
    """Return every pair of methods on the answer's task, as its own family."""
    tables = [every_pair(result) for result in comparison.claims]
    shown = tuple(one for one in tables if one)
    return [Section("All pairs", shown)] if shown else []


def _settings(groups: Sequence[Group]) -> tuple[str | Table, ...]:
    """Every resolved setting of the recipes: those that all trained methods share, then those that differ."""
    recipes = {g.label: flatten(g.first.record.recipe) for g in groups if g.first.record and not g.first.is_base}
    keys = list(dict.fromkeys(key for recipe in recipes.values() for key in recipe))
    same: list[tuple[str, ...]] = []
    differing: list[tuple[str, ...]] = []
    for key in keys:
        by_value: dict[str, list[str]] = {}
        for label, recipe in recipes.items():
            by_value.setdefault(_shown(recipe[key]) if key in recipe else DASH, []).append(label)
        if len(by_value) == 1:
            same.append((key, next(iter(by_value))))
        else:
            differing += [
                (key if not i else "", value, ", ".join(who)) for i, (value, who) in enumerate(by_value.items())
            ]
    found: list[str | Table] = []
    if same:
        found += ["Equal for every method:", Table("Equal settings", ("Setting", "Value"), tuple(same))]
    if differing:
        header = ("Setting", "Value", "Methods")
        found += [f"Different ({DASH}: the method has no such setting):", Table("Settings", header, tuple(differing))]
    return tuple(found) or ("No run left a recipe.",)


def _shown(value: Any) -> str:
    """A setting as text; templates and lists of rows as JSON."""
    return "null" if value is None else short(value) or '""'


def _tuning(groups: Sequence[Group]) -> tuple[str | Table, ...]:
    """Return a table of the learning rates tried for each recipe and the cost of their runs."""
    lines = []
    for series in rate_series(groups):
        rates = sorted({rate for rate, _ in series.groups} | {*series.bad})
        members = [group for _, group in series.groups]
        seconds = [_training_seconds(row) for group in members for row in group.rows]
        runs = sum(len(group.rows) for group in members) + len(series.bad)
        total = sum(one for one in seconds if one is not None) if seconds and None not in seconds else None
        tried = ", ".join(short(rate) for rate in rates)
        lines.append((series.name, str(len(rates)), tried, str(runs), quantity(total)))
    if not lines:
        return ("Nothing was trained.",)
    header = ("Method", "Rates tried", "Learning rates", "Runs", "Training, s")
    counts = sorted({int(line[1]) for line in lines})
    if counts == [1]:
        said = "Every recipe was trained with one learning rate: nothing was tuned here."
    elif len(counts) == 1:
        said = f"Every recipe was given the same number of learning rates, {counts[0]}."
    else:
        said = "The recipes were not given the same number of learning rates."
    return (said, Table("Tuning", header, tuple(lines)))


def _training_seconds(row: Row) -> float | None:
    return row.current.training.train_seconds if row.current and row.current.training else None


def _compute(loaded: Loaded, groups: Sequence[Group]) -> tuple[Block, ...]:
    """Seconds of every phase of every attempt, the failed ones included, and the highest peaks."""
    lines = []
    for group in groups:
        attempts = [attempt for row in group.rows if row.record for attempt in row.record.attempts]
        evaluation = sum(scored.record.seconds for row in group.rows for scored in row.scored)
        seconds = [_total(attempts, name, lambda phase: phase.seconds) for name in PHASES]
        peaks = [attempt.peak_memory_bytes for attempt in attempts if attempt.peak_memory_bytes is not None]
        lines.append(
            (
                group.label,
                str(len(attempts)),
                *(quantity(one) for one in seconds),
                quantity(evaluation) if evaluation else DASH,
                quantity(max(peaks) / MEBIBYTE if peaks else None),
            )
        )
    header = ("Method", "Attempts", *(f"{name.capitalize()}, s" for name in PHASES), "Tasks, s", "Peak memory, MiB")
    every = {(row.recipe_id, row.seed): row.record for row in (*loaded.rows, *loaded.trials) if row.record}
    attempts = [attempt for run in every.values() for attempt in run.attempts]
    devices = dict.fromkeys(str(one.provenance.get("device_name") or "an unknown device") for one in attempts)
    total = sum(map(hours.device_seconds, attempts)) / hours.HOUR
    said = (
        f"In all {total:.2f} device hours in {len(attempts)} attempts, those of tuning included, on "
        f"{', '.join(devices)}. Sums over all seeds and attempts; Tasks: the seconds inside evaluations, which "
        "Validate, Evaluate and Generate contain."
    )
    beside = (*doubts.lines(groups), *speed.unknown(groups))
    rates = speed.table(groups)
    return (
        said,
        without_empty(Table("Compute", header, tuple(lines))),
        hours.TEXT,
        _device_hours(groups),
        *((speed.TEXT, rates) if rates else ()),
        *((Bullets(beside),) if beside else ()),
    )


def _device_hours(groups: Sequence[Group]) -> Table:
    """Return a table of the device hours of each group's runs and of its tuning, with the cost of both."""
    lines = []
    for group in groups:
        tuning = hours.of_tuning(group.first)
        price = group.first.price
        known = [one for row in group.rows if (one := hours.of_run(row)) is not None]
        cost = None if price is None else (sum(known) + (tuning or 0.0)) * price
        lines.append((group.label, quantity(sum(known) if known else None), quantity(tuning), quantity(cost)))
    return Table("Device hours", ("Method", "Device hours", "Tuning, device hours", "Cost"), tuple(lines))


def _total(attempts: Iterable[Attempt], name: str, of: Callable[[Phase], float]) -> float | None:
    found = [of(attempt.phases[name]) for attempt in attempts if name in attempt.phases]
    return sum(found) if found else None


def _seeds(groups: Sequence[Group]) -> tuple[Table]:
    lines = [(group.label, ", ".join(str(row.seed) for row in group.rows), _status(group)) for group in groups]
    return (Table("Seeds", ("Method", "Seeds", "Status"), tuple(lines)),)


def _status(group: Group) -> str:
    return group.first.status or "missing"


def _sources(loaded: Loaded, groups: Sequence[Group]) -> list[str]:
    """The models, the training data, and the tasks' own data as far as their records name a license."""
    tasks = [scored[0] for group in groups if group.ok for scored in group.evaluations.values()]
    licenses = {s.task: str(s.record.provenance.get("license") or "not recorded") for s in tasks if not s.heldout}
    of_tasks = [f"task {task}: license {license}" for task, license in licenses.items()]
    return [*notes.sources(loaded, "model"), *notes.sources(loaded, "data"), *of_tasks]
