"""Records -> tables, figures, pages. Everything is a pure function of the records: equal records give equal bytes.

Nothing here imports torch, so a report can be made on a laptop. Plotting and statistics are imported when used.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from harness.report.data.rows import Loaded


def write(
    runs: Path | Sequence[Path], sweep: str | None = None, out: Path | None = None, allow: Sequence[str] = ()
) -> Path:
    """Write the report of a sweep, or of every run, and return the path of its `report.md`.

    Args:
        runs: one runs folder or several.
        sweep: its name; None for every run.
        out: the report's folder; None for `reports/<name of the report>`.
        allow: keys whose undeclared differences are printed under the table instead of refusing it.

    Raises:
        ValueError: a folder is missing, there are no records, or there is no sweep of that name.
        IncomparableError: the rows differ in what was not declared to vary.
    """
    from harness.report.data.load import load

    loaded = replace(load([runs] if isinstance(runs, Path) else list(runs), sweep), allowed=tuple(allow))
    return write_loaded(loaded, out or Path("reports") / name_of(loaded))


def write_loaded(loaded: "Loaded", out: Path) -> Path:
    """Write the whole report into the folder, and return the path of its page.

    `report.md`, `appendix.md` and `.tex`, `tables/`, `figures/`, `records.csv` and `.parquet`, `CITATION.cff` and,
    where updates were measured, `update.md`. Nothing is written where the folder holds this very report already.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary; nothing has been written.
    """
    from harness.report.writers import manifest

    made_from = manifest.inputs(loaded)
    if manifest.is_current(out, made_from):
        return out / "report.md"
    from harness.report.analysis.comparable import insist
    from harness.report.writers import folder

    groups = loaded.groups
    insist(groups, loaded)
    page = folder.write(loaded, groups, out)
    manifest.write(out, made_from)
    return page


def frame(runs: str | Path | Sequence[str | Path], sweep: str | None = None, items: bool = False) -> "pandas.DataFrame":
    """Records as a tidy pandas frame: one row per run, or with `items` one row per run and item.

    Raises:
        ValueError: as `write`.
    """
    from harness.report.writers.frames import frame as made

    return made(runs, sweep, items)


def name_of(loaded: "Loaded") -> str:
    """The sweep's name, or one made from the content of the rows."""
    from hashlib import sha256

    from harness.report.writers.table import to_csv

    return loaded.sweep.name if loaded.sweep else f"runs-{sha256(to_csv(loaded.rows).encode()).hexdigest()[:8]}"
