"""`records.parquet`: the flat table with its types, one row per run. Equal records give equal bytes."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.record import write_bytes
from harness.report.data.rows import Row
from harness.report.data.settings import differing
from harness.report.writers.table import columns, flat

if TYPE_CHECKING:
    import pyarrow

_TEXT = (
    "label", "method", "model", "data", "status", "reason", "recipe_id", "timing_warnings", "recipe", "provenance",
    "started_at", "weights",
)  # fmt: skip
_COUNTS = ("seed", "trainable_parameters", "total_parameters", "peak_memory_bytes", "required_memory_bytes")


def write(rows: Sequence[Row], path: Path) -> Path:
    """Write the table."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(table(rows), sink, compression="zstd", write_page_index=False)
    return write_bytes(sink.getvalue().to_pybytes(), path)


def table(rows: Sequence[Row]) -> pyarrow.Table:
    """Return the flat table, and the start, the recipe and the provenance of each row, the last two as JSON text."""
    import pyarrow

    values = [{**line, **_beside(row)} for row, line in zip(rows, flat(rows), strict=True)]
    settings = differing(rows)
    names = (*columns(rows), "started_at", "recipe", "provenance")
    arrays = {}
    for name in names:
        cells = [line[name] for line in values]
        if name in settings and len({type(cell) for cell in cells} - {type(None)}) > 1:
            cells = [None if cell is None else cell if isinstance(cell, str) else json.dumps(cell) for cell in cells]
        arrays[name] = pyarrow.array(cells, type=None if name in settings else _type(name))
    return pyarrow.table(arrays)


def _beside(row: Row) -> dict[str, Any]:
    current = row.current
    return {
        "started_at": current.started_at if current else None,
        "recipe": json.dumps(row.record.recipe, sort_keys=True) if row.record else None,
        "provenance": json.dumps(current.provenance, sort_keys=True) if current else None,
    }


def _type(name: str) -> pyarrow.DataType:
    """Return the type by the column's name, so that a column without a value has the same type."""
    import pyarrow

    if name in _TEXT:
        return pyarrow.string()
    counts = name in _COUNTS or name.endswith(("/num_fewshot", "/n"))
    return pyarrow.int64() if counts else pyarrow.float64()
