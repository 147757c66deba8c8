r"""Typed tables as LaTeX floats with captions and labels, with bare tabulars beside them; no table is scaled.

The preamble needs `PREAMBLE`, whichever class it is. Tables fit the narrowest page (5.5 inches of 10 pt type, NeurIPS)
and column (3 inches of 11 pt, ACL). A wider one gets smaller type, then gives its standard errors to a note, then
becomes several.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from harness.records.record import write_text
from harness.report.display import several
from harness.report.document import Bullets, Command, Missing, Note, Number, Section, Table, digits_of, fixed
from harness.report.writers.tabular import COLUMN, columns_of, fits, layout_of, raised, tabular
from harness.report.writers.tex import breakable, escape, listing

PREAMBLE = r"\usepackage{array,booktabs,threeparttable}"
ERROR = "\N{PLUS-MINUS SIGN}: one standard error."
_MOST_ROWS = 42  # of a float on one page
_MOST_WAITING = 10  # floats: LaTeX holds 18 that have no page yet


def write(tables: Mapping[str, Table], folder: Path) -> list[Path]:
    """Write <name>.tex (floats) and <name>.tabular.tex of each table, delete those of others, and return the paths.

    A table that takes several floats has as many bare tabulars: <name>.tabular-2.tex is its second part.
    """
    texts = {f"{name}.tex": "\n\n".join(floats(table)) for name, table in tables.items()}
    for name, table in tables.items():
        for number, part in enumerate(_parts(table), 1):
            texts[f"{name}.tabular{f'-{number}' if number > 1 else ''}.tex"] = tabular(part)
    for path in folder.glob("*.tex"):
        if path.name not in texts:
            path.unlink()
    return [write_text(headed(text), folder / name) for name, text in texts.items()]


def headed(text: str) -> str:
    """Return the text of a file with the line that says what its preamble needs."""
    return f"% Made from records by harness.report. The preamble needs {PREAMBLE}\n{text}\n"


def document(sections: Sequence[Section]) -> str:
    r"""Return sections, to be `\input` after `\appendix` (IEEEtran: `\appendices`); their tables are floats."""
    parts, waiting = [], 0
    for section in sections:
        content = list(_blocks(section.blocks))
        if not content:
            continue
        waiting += sum(text.startswith(r"\begin{table") for text in content)
        parts += [rf"\section{{{escape(section.title)}}}", *content]
        if waiting > _MOST_WAITING:
            parts.append(r"\clearpage")
            waiting = 0
    return headed("% After \\appendix; in IEEEtran after \\appendices.\n\n" + "\n\n".join(parts))


def floats(table: Table) -> list[str]:
    """Return a table as one float with its caption, label and notes, or as several where it is too large for one."""
    parts, has_room = list(_parts(table)), fits(table)
    made = []
    for number, part in enumerate(parts, 1):
        label = f"{table.label}-{number}" if number > 1 else table.label
        caption = _caption(table, has_room) + (f" Part {number} of {len(parts)}." if len(parts) > 1 else "")
        notes = [note for note in table.notes if note.mark or number == len(parts)]  # sentences below the last part
        notes += [] if has_room else _highest_errors(table.select(part.keys))
        made.append(_float(replace(part, notes=tuple(notes)), caption, label))
    return made


def _caption(table: Table, shows_errors: bool) -> str:
    """Return the caption of a table; where it does not say so itself, with the meaning of the errors in the table."""
    caption = table.caption or f"{table.title}."
    has_errors = any(isinstance(cell, Number) and cell.shown_error is not None for row in table.rows for cell in row)
    is_defined = "standard error" in caption or not (has_errors and shows_errors)
    return caption if is_defined else f"{caption} {ERROR}"


def _blocks(blocks: Sequence[object]) -> Iterator[str]:
    for block in blocks:
        if isinstance(block, Bullets) and block.lines:
            items = "\n".join(rf"\item {breakable(line)}" for line in block.lines)
            yield f"\\begin{{itemize}}\\sloppy\n{items}\n\\end{{itemize}}"
        elif isinstance(block, Command) and block.text.strip():
            yield listing(block.text)
        elif isinstance(block, Table) and block.rows:
            yield from floats(block)
        elif isinstance(block, str) and block:
            yield breakable(block)


def _float(table: Table, caption: str, label: str) -> str:
    """Return one float: over a column where the table fits in one, else over the page."""
    layout = layout_of(columns_of(table))
    environment = "table" if layout.line == COLUMN else "table*"
    notes = [rf"\item[{raised(note.mark)}] {escape(note.text)}" for note in table.notes]
    lengths = {"tabcolsep": layout.gap / 2, "belowcaptionskip": 4}
    lines = [
        rf"\begin{{{environment}}}[tp]",
        rf"\centering\{layout.size}" + "".join(rf"\setlength{{\{k}}}{{{v:g}pt}}" for k, v in lengths.items()),
        rf"\caption{{{escape(caption)}}}",
        rf"\label{{tab:{label}}}",
        *([r"\begin{threeparttable}"] if notes else []),
        tabular(table),
        *([r"\begin{tablenotes}[flushleft]\footnotesize", *notes, r"\end{tablenotes}"] if notes else []),
        *([r"\end{threeparttable}"] if notes else []),
        rf"\end{{{environment}}}",
    ]
    return "\n".join(lines)


def _parts(table: Table) -> Iterator[Table]:
    """Return the table in parts that fit on a page each."""
    fitting = table if fits(table) else _without_errors(table)
    for part in _bycolumns_of(fitting):
        for start in range(0, len(part.rows), _MOST_ROWS):
            rules = tuple(rule - start for rule in part.rules if start < rule < start + _MOST_ROWS)
            yield replace(part, rows=part.rows[start : start + _MOST_ROWS], rules=rules)


def _without_errors(table: Table) -> Table:
    """Return the table without its standard errors."""
    rows = tuple(
        tuple(
            replace(cell, error=None, digits=digits_of(cell, column)) if isinstance(cell, Number) else cell
            for cell, column in zip(row, table.columns, strict=True)
        )
        for row in table.rows
    )
    return replace(table, rows=rows)


def _highest_errors(table: Table) -> list[Note]:
    """Return a note with the highest standard error of each quantity of a table; [] where no number has one."""
    highest: dict[tuple[str, str], tuple[float, str]] = {}
    for column in table.columns:
        for cell in table.cells(column.key):
            if isinstance(cell, Number) and (spread := cell.shown_error) is not None:
                error = spread * column.scale, fixed(spread * column.scale, digits_of(cell, column))
                quantity = (column.spanner or column.title, column.unit)
                highest[quantity] = max(error, highest.get(quantity, error))
    texts = [f"{text}{f' {unit}' if unit else ''} ({name})" for (name, unit), (_, text) in highest.items()]
    return [Note(f"Standard errors are at most {several(texts, len(texts))}.")] if texts else []


def _bycolumns_of(table: Table) -> Iterator[Table]:
    """Return the table in as few parts of its columns as fit on a line, each with the first column.

    A row without any value in a part is left out of it.
    """
    first, *others = table.keys
    for count in range(1, len(others) + 1):
        size = -(-len(others) // count)
        parts = [table.select([first, *others[start : start + size]]) for start in range(0, len(others), size)]
        if all(map(fits, parts)):
            break
    if len(others) <= 1 or len(parts) == 1:
        yield table
        return
    for part in parts:
        rows = tuple(row for row in part.rows if not all(isinstance(cell, Missing) for cell in row[1:]))
        yield replace(part, rows=rows) if not part.rules else part
