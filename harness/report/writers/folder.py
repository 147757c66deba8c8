"""The files of a report's folder, one line each."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from harness.records.record import write_text
from harness.report import figures, html
from harness.report.analysis.comparison import Comparison
from harness.report.data import tuning
from harness.report.pages import checklist, data_card, details, report, setup, update
from harness.report.writers import citation, latex, numbers, paper, parquet, prose, values
from harness.report.writers.markdown import to_markdown
from harness.report.writers.table import to_csv


def write(comparison: Comparison, out: Path) -> Path:
    """Write all files of the report, and return the path of its page.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary; nothing has been written.
    """
    loaded, groups = comparison.loaded, comparison.groups
    assert comparison.guard, "rows that may be compared"
    title = report.title(comparison)
    write_text(to_csv(loaded.rows), out / "records.csv")
    parquet.write(loaded.rows, out / "records.parquet")
    _write_setup(comparison, out)
    write_text(citation.citation(comparison, (loaded.sweep and loaded.sweep.question) or title), out / "CITATION.cff")
    _write_trials(comparison.tuning, out / "tuning.csv")
    for check in loaded.checks:
        data_card.write(check, out / "data")
    drawn = figures.of(comparison)
    figures.write(drawn, out / "figures")
    shapes = update.write(groups, out, any(figure.stem == "update" for figure in drawn))
    body = report.body(comparison, drawn)
    behind = details.sections(comparison, drawn[1:], update=shapes is not None)
    tables = paper.tables((*body, *behind))
    latex.write(tables, out / "tables")
    values.write(tables, out / "tables")
    write_text(numbers.to_latex(comparison, tables), out / numbers.NAME)
    write_text(to_markdown(f"Appendix of {title}", behind), out / "appendix.md")
    write_text(latex.document((body[-1], *behind)), out / "appendix.tex")
    html.write(comparison, title, out / "index.html", drawn, (*body, *behind))
    return write_text(report.to_markdown(comparison, body, behind), out / "report.md")


def _write_setup(comparison: Comparison, out: Path) -> None:
    """Write the section on the experimental setup with its bibliography, and the checklists."""
    paragraphs = setup.paragraphs(comparison)
    write_text(prose.to_latex("Experimental Setup", "sec:setup", paragraphs), out / "setup.tex")
    write_text(prose.to_markdown("Experimental setup", paragraphs), out / "setup.md")
    write_text(prose.bibliography(prose.cited(paragraphs)), out / "references.bib")
    write_text(checklist.to_latex(comparison), out / "checklist.tex")
    write_text(checklist.to_markdown(comparison), out / "checklist.md")


def _write_trials(tuned: Sequence[tuning.Contestant], path: Path) -> None:
    """Write the trials of a sweep with stages; delete an old file where there are none."""
    if tuned:
        write_text(tuning.to_csv(tuned), path)
    else:
        path.unlink(missing_ok=True)
