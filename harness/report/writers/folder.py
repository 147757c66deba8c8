"""The files of a report's folder: its pages, tables, figures and data, and `CITATION.cff`."""

import json
from collections.abc import Iterable, Mapping
from dataclasses import replace
from itertools import chain, count
from pathlib import Path

from harness.records import untrusted
from harness.records.record import write_text
from harness.records.untrusted import printable
from harness.report import figures, html, names
from harness.report.analysis.comparison import Comparison
from harness.report.data import tuning
from harness.report.document import Section, Table
from harness.report.pages import checklist, data_card, report, setup, update
from harness.report.writers import flat, latex, numbers, prose
from harness.report.writers.flat import to_csv
from harness.report.writers.markdown import to_markdown


def write(comparison: Comparison, out: Path) -> Path:
    """Write all files of the report, and return the path of its page.

    Raises:
        IncomparableError: the rows differ in what was not declared to vary; nothing has been written.
    """
    loaded = comparison.loaded
    assert comparison.guard, "rows that may be compared"
    title = report.title(comparison)
    write_text(to_csv(loaded.rows), out / "records.csv")
    flat.write_parquet(loaded.rows, out / "records.parquet")
    _write_setup(comparison, out)
    write_text(citation(comparison, (loaded.sweep and loaded.sweep.question) or title), out / "CITATION.cff")
    (out / "tuning.csv").unlink(missing_ok=True)  # of a sweep that has no stages any more
    if comparison.tuning:
        write_text(tuning.to_csv(comparison.tuning), out / "tuning.csv")
    for check in loaded.checks:
        data_card.write(check, out / "data")
    drawn = figures.of(comparison)
    figures.write(drawn, out / "figures")
    shapes = update.write(comparison.ordered, out, any(figure.stem == "update" for figure in drawn))
    opened = report.body(comparison, drawn)
    every = with_own_labels((*opened, *report.details(comparison, drawn[1:], update=shapes is not None)))
    body, behind = every[: len(opened)], every[len(opened) :]
    tables = named_tables(every)
    latex.write(tables, out / "tables")
    write_values(tables, out / "tables")
    write_text(numbers.to_latex(comparison, tables), out / numbers.NAME)
    write_text(to_markdown(f"Appendix of {title}", behind), out / "appendix.md")
    write_text(latex.document((body[-1], *behind)), out / "appendix.tex")
    html.write(comparison, title, out / "index.html", drawn, every)
    return write_text(report.to_markdown(comparison, body, behind), out / "report.md")


def _write_setup(comparison: Comparison, out: Path) -> None:
    """Write the section on the experimental setup with its bibliography, and the checklists."""
    paragraphs = setup.paragraphs(comparison)
    write_text(prose.to_latex("Experimental Setup", "sec:setup", paragraphs), out / "setup.tex")
    write_text(prose.to_markdown("Experimental setup", paragraphs), out / "setup.md")
    write_text(prose.bibliography(prose.cited(paragraphs)), out / "references.bib")
    write_text(checklist.to_latex(comparison), out / "checklist.tex")
    write_text(checklist.to_markdown(comparison), out / "checklist.md")


def write_values(tables: Mapping[str, Table], folder: Path) -> None:
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


def named_tables(sections: Iterable[Section]) -> dict[str, Table]:
    """Return the tables by labels of their own, which are the names of their files."""
    return {table.label: table for section in with_own_labels(sections) for table in section.tables}


def with_own_labels(sections: Iterable[Section]) -> list[Section]:
    """Return the sections with a label of its own for every table: of equal labels the later are numbered.

    Numbers stand behind an underscore: a hyphen stands before the number of a part of one table.
    """
    taken: set[str] = set()

    def labeled(table: Table) -> Table:
        numbers = (f"{table.label}_{number}" for number in count(2))
        label = next(label for label in chain([table.label], numbers) if label not in taken)
        taken.add(label)
        return replace(table, label=label)

    return [
        replace(section, blocks=tuple(labeled(b) if isinstance(b, Table) and b.rows else b for b in section.blocks))
        for section in sections
    ]


def citation(comparison: Comparison, title: str) -> str:
    """The file's text; JSON strings are YAML strings, so nothing in a name can break it."""
    attempts = [row.current for row in comparison.loaded.rows if row.current]
    commits = dict.fromkeys(str(attempt.provenance.get("commit") or "") for attempt in attempts)
    methods = dict.fromkeys(names.method(group.first.method).display for group in comparison.trained)
    dates = sorted(attempt.started_at[:10] for attempt in attempts)
    lines = [
        "cff-version: 1.2.0",
        f"message: {_quoted('If you use these results, please cite them.')}",
        "type: dataset",
        f"title: {_quoted(title)}",
        f"abstract: {_quoted(' '.join(comparison.answer.lines))}",
        "authors: []  # of the study: records do not name them",
        *([f"version: {_quoted(', '.join(commit for commit in commits if commit))}"] if any(commits) else []),
        *([f"date-released: {dates[-1]}"] if dates else []),
        "keywords:",
        *(f"  - {_quoted(keyword)}" for keyword in ("fine-tuning", *methods)),
    ]
    return "\n".join(lines) + "\n"


def _quoted(value: str) -> str:
    return json.dumps(printable(value), ensure_ascii=False)
