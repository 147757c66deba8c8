"""A comparison as TensorBoard shows it: the answer, the tables and the figures, and every row as a line of numbers."""

from collections.abc import Mapping
from pathlib import Path

from harness.records.event_files import EventFile
from harness.records.untrusted import escaped
from harness.report.analysis.comparison import Comparison
from harness.report.data.rows import Row
from harness.report.pages.summary import cost
from harness.report.writers.markdown import table_text
from harness.report.writers.table import IDENTITY, Value, flat

_NOT_METRICS = (*IDENTITY, "seed", "status", "reason", "recipe_id")


def write_comparison(comparison: Comparison, name: str, report: Path, folder: Path) -> Path:
    """Write the event files below `folder`/sweep-<name>, in place of older ones, and return that folder.

    Args:
        comparison: the rows.
        name: of the sweep, or of the report where there is none.
        report: the report's folder, whose figures are shown.
        folder: where the runs of TensorBoard lie.
    """
    plain = "".join(character if character.isalnum() or character in "-_." else "-" for character in name)
    place = folder / f"sweep-{plain[:100]}"
    for old in place.rglob("events.out.tfevents.*"):
        old.unlink()
    loaded, groups = comparison.loaded, comparison.groups
    page = EventFile(place)
    page.text("answer", escaped(" ".join(comparison.answer.lines)))
    for table in (comparison.main_table, cost(groups)):
        page.text(table.title.lower(), table_text(table))
    for path in sorted(report.glob("figures/*.png")):
        page.picture(f"figures/{path.stem}", path.read_bytes())
    page.close()
    for index, (row, line) in enumerate(zip(loaded.rows, flat(loaded.rows), strict=True)):
        _write_row(row, line, place / "rows" / f"{index:03}-{row.method}-{row.recipe_id}-s{row.seed}")
    return place


def _write_row(row: Row, line: Mapping[str, Value], folder: Path) -> None:
    """A line of the table of hyperparameters, which sorts and filters by its numbers."""
    file = EventFile(folder)
    told = {"row": row.label, "method": row.method, "seed": row.seed, "status": row.status or "missing"}
    file.hyperparameters(told, row.status)
    file.numbers(
        {key: value for key, value in line.items() if key not in _NOT_METRICS and isinstance(value, (int, float))}
    )
    file.close()
