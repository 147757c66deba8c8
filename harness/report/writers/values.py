"""A table as data: raw values in the units of the records, under the keys of its columns."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from harness.records import untrusted
from harness.records.record import write_text
from harness.report.document import Table


def write(tables: Mapping[str, Table], folder: Path) -> None:
    """Write <name>.csv of each table, and delete those of others."""
    for path in folder.glob("*.csv"):
        if path.stem not in tables:
            path.unlink()
    for name, table in tables.items():
        write_text(table_csv(table), folder / f"{name}.csv")


def table_csv(table: Table) -> str:
    """Return the rows as comma-separated values; an unknown value is empty."""
    rows = table.records()
    return untrusted.to_csv(list(rows[0]) if rows else table.keys, rows)
