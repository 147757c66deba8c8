"""The tables of a paper, by the names of their files: every table of the report."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from harness.report.document import Section, Table


def tables(sections: Iterable[Section]) -> dict[str, Table]:
    """Return the tables by their labels, which are the names of their files; of equal labels the later are numbered."""
    named: dict[str, Table] = {}
    for table in (table for section in sections for table in section.tables):
        same = sum(other.split("-")[0] == table.label for other in named)
        label = f"{table.label}-{same + 1}" if same else table.label
        named[label] = replace(table, label=label)
    return named
