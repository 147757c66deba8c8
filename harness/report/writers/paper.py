"""The tables of a paper, by the names of their files."""

from __future__ import annotations

from dataclasses import replace

from harness.report.analysis.claims import Claims
from harness.report.analysis.comparison import Comparison
from harness.report.analysis.verdicts import explained, families
from harness.report.document import Note, Table
from harness.report.pages import appendix, hyperparameters
from harness.report.pages.summary import cost, losses, tasks


def tables(comparison: Comparison) -> dict[str, Table]:
    """Return every table by its label, which is the name of its file; of equal labels the later ones are numbered."""
    groups = comparison.groups
    listed = [
        comparison.main_table,
        _captioned(losses(groups), "Losses in nats per answer token, with paired differences to the base model."),
        _captioned(cost(groups), "Costs of training and evaluation, means over the seeds."),
        *(_captioned(table, f"{table.title}.") for table in tasks(groups)),
        *(table for result in comparison.claims for table in _tests(result)),
        *appendix.pairs(comparison),
        hyperparameters.shared(comparison),
        hyperparameters.by_method(comparison),
        hyperparameters.searched(comparison),
        appendix.compute(comparison),
        appendix.seeds(comparison),
        appendix.failures(comparison),
    ]
    named: dict[str, Table] = {}
    for table in listed:
        if table and table.rows:
            same = sum(other.split("-")[0] == table.label for other in named)
            label = f"{table.label}-{same + 1}" if same else table.label
            named[label] = replace(table, label=label)
    return named


def _tests(result: Claims) -> list[Table]:
    notes = tuple(Note(line) for line in explained(result))
    return [replace(_captioned(table, f"{table.title}."), notes=(*table.notes, *notes)) for table in families(result)]


def _captioned(table: Table, caption: str) -> Table:
    return replace(table, caption=table.caption or caption)
