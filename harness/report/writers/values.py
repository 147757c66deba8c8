"""A table as data: raw values in the units of the records, under the keys of its columns."""

from __future__ import annotations

import json

from harness.records import untrusted
from harness.report.document import Table


def table_csv(table: Table) -> str:
    """Return the rows as comma-separated values; an unknown value is empty."""
    rows = table.records()
    return untrusted.to_csv(list(rows[0]) if rows else table.keys, rows)


def table_json(table: Table) -> str:
    """Return the rows as a JSON list of objects; an unknown value is null."""
    return json.dumps(table.records(), allow_nan=False, indent=2) + "\n"
