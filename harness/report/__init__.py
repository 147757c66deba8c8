"""Records -> tables, figures, pages. Everything is a pure function of the records: equal records give equal bytes.

Nothing here imports torch, so a report can be made on a laptop. Plotting and statistics are imported when used.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import pandas

    from harness.report.analysis.comparison import Comparison
    from harness.report.data.rows import Loaded


def load(runs: str | Path | Sequence[str | Path], sweep: str | None = None, allow: Sequence[str] = ()) -> "Comparison":
    """Return the comparison of the runs of a sweep, or of every run.

    Args:
        runs: one runs folder or several.
        sweep: its name; None for every run.
        allow: keys whose undeclared differences are printed under the table instead of refusing it.

    Raises:
        ValueError: a folder is missing, there are no records, or there is no sweep of that name.
    """
    from harness.report.analysis.comparison import Comparison
    from harness.report.data.load import load as read

    folders = [Path(runs)] if isinstance(runs, str | Path) else [Path(folder) for folder in runs]
    return Comparison(replace(read(folders, sweep), allowed=tuple(allow)))


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
    comparison = load(runs, sweep, allow)
    return write_comparison(comparison, out or Path("reports") / name_of(comparison.loaded))


def write_comparison(comparison: "Comparison", out: Path) -> Path:
    """Write the whole report into the folder, and return the path of its page.

    `report.md`, `appendix.md` and `.tex`, `tables/`, `numbers.tex`, `figures/`, `records.csv` and `.parquet`,
    `CITATION.cff` and, where updates were measured, `update.md`. Nothing is written where the folder holds this very
    report already.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary; nothing has been written.
    """
    from harness.report.writers import manifest

    made_from = manifest.inputs(comparison.loaded)
    if manifest.is_current(out, made_from):
        return out / "report.md"
    from harness.report.writers import folder

    page = folder.write(comparison, out)
    manifest.write(out, made_from)
    return page


def frame(runs: str | Path | Sequence[str | Path], sweep: str | None = None, items: bool = False) -> "pandas.DataFrame":
    """Return records as a tidy pandas frame: one row per run, or with `items` one row per run and item.

    Raises:
        ValueError: as `load`.
    """
    return load(runs, sweep).frame(items)


def name_of(loaded: "Loaded") -> str:
    """The sweep's name, or one made from the content of the rows."""
    from hashlib import sha256

    from harness.report.writers.flat import to_csv

    return loaded.sweep.name if loaded.sweep else f"runs-{sha256(to_csv(loaded.rows).encode()).hexdigest()[:8]}"
