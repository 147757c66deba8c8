"""The page's table of everything: a row per method, a column per score and cost, and the facts that a filter reads."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from statistics import fmean
from typing import TYPE_CHECKING, Any

from harness.records.untrusted import NO_BREAK, printable
from harness.report import names
from harness.report.analysis.axes import COSTS, Cost, Quality, gain_column, qualities, score_column
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.main_table import Field
from harness.report.data.groups import Group
from harness.report.data.rows import settings_of
from harness.report.document import Cell, Column, Missing, Number, Table, Text, plain, ranked
from harness.report.writers.flat import flat

if TYPE_CHECKING:
    from harness.stats import SeedEstimate

ROLES = ("target", "retention", "validation", "test")
PARTS = ("method.", "model.", "data.", "train.")  # of a recipe
_UNSAID = ("method.name", "method.lr", "model.content", "data.content")  # an opened row leaves these to records.csv
_COST_KEYS = {cost.key for cost in COSTS}


def table(comparison: Comparison) -> Table:
    """Return the main table, with the gain over the base model beside its first score, and then all else.

    Scores are in the unit of their records; the columns give the scale in which people read them.
    """
    main, groups = comparison.main_table, comparison.ordered
    rows = {row[0].key: row for row in main.rows if isinstance(row[0], Text)}
    fields: list[Field] = [  # a cost is better where it is lower
        (
            replace(column, better="lower") if column.key in _COST_KEYS else column,
            partial(lambda place, group: rows[group.label][place], place),
        )
        for place, column in enumerate(main.columns)
    ]
    scores: dict[tuple[str, str], Quality] = {}  # evaluations that were allowed to differ share a column
    for score in qualities(groups, ROLES, comparison.primary):
        scores.setdefault((score.task, score.measure.metric), score)
    extra = [field for score in scores.values() for field in _score_fields(score)]
    extra += [(cost.column, partial(_cost, cost)) for cost in COSTS]
    extra = [field for field in extra if field[0].key not in main.keys]
    extra.append((Column("seeds", "Seeds", text=True), lambda group: Text(group.num_seeds)))
    first = f"{main.keys[1]}_vs_base" if len(main.keys) > 1 else ""
    ahead = [field for field in extra if field[0].key == first]
    fields = [*fields[:2], *ahead, *fields[2:], *(field for field in extra if field not in ahead)]
    whole = Table.by_field(groups, fields, label="everything").without_empty()
    competing = [place for place, group in enumerate(groups) if group.trained and not group.random_weights]
    for column in whole.columns:
        if column.better and column.key not in main.keys:
            whole = ranked(whole, column.key, competing)
    return whole


def content(comparison: Comparison) -> dict[str, Any]:
    """Return the table for the page's script: columns, and rows with the text and the value of each cell."""
    groups, main_rows, main = comparison.ordered, table(comparison), comparison.main_table
    facts = [_facts(group) for group in groups]
    keys = [*dict.fromkeys(key for own in facts for key in own)]
    settings = [place for place, key in enumerate(keys) if key.startswith(PARTS) and key not in _UNSAID]
    settings.sort(key=lambda place: not keys[place].startswith(PARTS[0]))  # those of the method first
    return {
        "columns": [_column(column, main_rows.cells(column.key)) for column in main_rows.columns],
        "rows": [
            {
                "cells": [_cell(cell, column) for cell, column in zip(row, main_rows.columns, strict=True)],
                "label": printable(group.label),
                "status": group.status,
                "reason": "" if group.ok else printable(group.first.reason),
                "words": printable(f"{group.label} {group.name} {group.status} {group.first.recipe_id}"),
                "base": group.first.is_base,
                "facts": [own.get(key) for key in keys],
            }
            for group, row, own in zip(groups, main_rows.rows, facts, strict=True)
        ],
        "facts": [printable(key) for key in keys],
        "settings": [[place, printable(names.setting(keys[place]).display)] for place in settings],
        "notes": [printable(str(note)) for note in main.notes],
        "sort": 1 if len(main.columns) > 1 and main.columns[1].better else -1,
    }


def _score_fields(score: Quality) -> list[Field]:
    """Return the column of a score, and that of its gain over the base model."""
    task, metric = names.task(score.task), names.metric(score.measure.metric)
    scores = score_column(score.task, score.measure.metric, score.higher_is_better)
    beside = replace(gain_column(scores), key=f"{scores.key}_vs_base", title=f"{task.short} vs. base")

    def value(group: Group) -> Cell:
        measure = group.own(score.role, score.task, score.measure)
        return _number(group, group.score(measure) if measure else None)

    def gain(group: Group) -> Cell:
        measure = group.own(score.role, score.task, score.measure)
        return _number(group, group.gain(measure) if measure else None, signed=True)

    return [(replace(scores, title=f"{task.short} {metric.short}"), value), (beside, gain)]


def _number(group: Group, estimate: SeedEstimate | None, signed: bool = False) -> Cell:
    if estimate is None and group.status == "interrupted" and not signed:
        return Missing("the run was interrupted before this evaluation", "missing")
    if estimate is None:
        return Missing("not evaluated")
    return Number(estimate.value, estimate.standard_error, signed=signed)


def _cost(cost: Cost, group: Group) -> Cell:
    value = cost.of(group)
    if value is not None:
        return Number(value)
    return Missing(group.first.reason, "OOM") if group.status == "oom" else Missing("unknown")


def _column(column: Column, cells: Sequence[Cell]) -> dict[str, Any]:
    return {
        "key": printable(column.key),
        "title": printable(column.heading.replace(f"{NO_BREAK}(", " (")),  # a unit may stand on a line of its own
        "better": column.better,
        "text": column.text,
        "numbers": any(isinstance(cell, Number) for cell in cells),
    }


def _cell(cell: Cell, column: Column) -> list[Any]:
    """Return the text of a cell, its value, and its emphasis or the reason why it is missing."""
    text = printable(plain(cell, column))
    if isinstance(cell, Number):
        return [text, cell.value, cell.emphasis]
    return [text, None, printable(cell.why) if isinstance(cell, Missing) else ""]


def _facts(group: Group) -> dict[str, Any]:
    """Return what a filter can ask of a row: its settings, and its numbers as means over the seeds."""
    facts: dict[str, Any] = {"label": printable(group.label), "method": group.first.method, "status": group.status}
    facts["seeds"] = len(group.rows) if group.ok else 0
    facts |= {key: _plain(value) for key, value in settings_of(group.first).items()}
    lines = flat(group.rows)
    for key in lines[0]:
        values = [line[key] for line in lines]
        if key in facts:
            continue
        numbers = [value for value in values if isinstance(value, (int, float))]
        if len(numbers) == len(values):
            facts[key] = fmean(numbers)
        elif all(value == values[0] for value in values):
            facts[key] = _plain(values[0])
    return facts


def _plain(value: Any) -> Any:
    """Return a setting as a filter compares it: a number, or words."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return ", ".join(str(_plain(item)) for item in value)
    return printable(value) if isinstance(value, str) else value
