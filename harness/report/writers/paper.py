"""The tables of a paper, by the names of their files."""

from __future__ import annotations

from harness.report.analysis.comparison import Comparison
from harness.report.document import Table
from harness.report.pages import appendix, hyperparameters

TIES = "Methods sharing a letter under Ties do not differ significantly on the answer's task (adjusted for all pairs)."


def tables(comparison: Comparison) -> dict[str, Table]:
    """Return every table by its label, which is the name of its file."""
    found = [
        *appendix.pairs(comparison),
        hyperparameters.shared(comparison),
        hyperparameters.by_method(comparison),
        hyperparameters.searched(comparison),
        appendix.compute(comparison),
        appendix.seeds(comparison),
        appendix.failures(comparison),
    ]
    return {table.label: table for table in found if table and table.rows}
