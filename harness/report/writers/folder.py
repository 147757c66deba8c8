"""The files of a report's folder, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.records.record import write_text
from harness.report import figures, html
from harness.report.analysis.claims import asked_for
from harness.report.data import tuning
from harness.report.data.groups import Group, grouped
from harness.report.data.rows import Loaded
from harness.report.pages import appendix, data_card, markdown, update
from harness.report.writers import citation, latex, paper, parquet
from harness.report.writers.blocks import to_latex, to_markdown
from harness.report.writers.table import to_csv


def write(loaded: Loaded, groups: Sequence[Group], out: Path) -> Path:
    """Write all files of the report, and return the path of its page."""
    title = markdown.title(loaded, groups)
    sections = appendix.sections(loaded)
    write_text(to_csv(loaded.rows), out / "records.csv")
    parquet.write(loaded.rows, out / "records.parquet")
    latex.write(paper.tables(loaded), out / "tables")
    write_text(to_markdown(f"Appendix of {title}", sections), out / "appendix.md")
    write_text(to_latex(sections), out / "appendix.tex")
    write_text(citation.citation(loaded, title, groups), out / "CITATION.cff")
    html.write(loaded, title, groups, out / "index.html")
    tuned = tuning.contestants(loaded.sweep, loaded.trials)
    _write_trials(tuned, out / "tuning.csv")
    for check in loaded.checks:
        data_card.write(check, out / "data")
    trials = figures.Tuned(grouped(loaded.trials), tuned)
    drawn = figures.write(groups, out / "figures", trials, loaded.external, asked_for(groups, loaded.primary))
    shapes = update.write(groups, out)
    return write_text(markdown.page(loaded, drawn, update=shapes is not None), out / "report.md")


def _write_trials(tuned: Sequence[tuning.Contestant], path: Path) -> None:
    """Write the trials of a sweep with stages; delete an old file where there are none."""
    if tuned:
        write_text(tuning.to_csv(tuned), path)
    else:
        path.unlink(missing_ok=True)
