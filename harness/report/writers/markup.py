"""A table as HTML: every cell has its text, and as data the raw value that a script sorts by."""

from __future__ import annotations

from html import escape

from harness.records.untrusted import printable
from harness.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Command,
    Figure,
    Markup,
    Missing,
    Number,
    Section,
    Table,
    plain,
    spread_text,
    value_text,
)

_TAGS = {"": "{}", "best": "<strong>{}</strong>", "second": "<u>{}</u>"}


def table_html(table: Table) -> str:
    """Return a `table` element with its caption, its head, its rows and its notes as the foot."""
    head = "".join(
        f'<th scope="col"{"" if column.text or not place else " class=number"} data-key="{escape(column.key)}"'
        f"{_better(column)}>{_text(column.heading)}</th>"
        for place, column in enumerate(table.columns)
    )
    body = "\n".join(_row(table, index) for index in range(len(table.rows)))
    notes = "<br>".join(_text(str(note)) for note in table.notes)
    foot = f'<tfoot><tr><td colspan="{len(table.columns)}">{notes}</td></tr></tfoot>' if notes else ""
    identity = f' id="table-{escape(table.label)}"' if table.label else ""
    caption = f"<caption>{_text(table.caption)}</caption>" if table.caption else ""
    return f"<table{identity}>{caption}\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>{foot}</table>"


def section_html(section: Section) -> str:
    """Return the paragraphs, lists, commands and tables of a section; "" without any."""
    return "\n".join(text for block in section.blocks if (text := _block(block, section.title)))


def _block(block: Block, title: str) -> str:
    if isinstance(block, str):
        return f"<p>{_text(block)}</p>" if block else ""
    if isinstance(block, Bullets):
        return f"<ul>{''.join(f'<li>{_text(line)}</li>' for line in block.lines)}</ul>" if block.lines else ""
    if isinstance(block, Command):
        return f"<pre>{escape(printable(block.text, keep=chr(10)))}</pre>" if block.text else ""
    if isinstance(block, (Figure, Markup)):
        return ""  # links and pictures of report.md; the page has its own
    if not block.rows:
        return ""
    heading = f"<h3>{_text(block.title)}</h3>\n" if block.title not in ("", title) and not block.caption else ""
    name = _text(block.title or block.label)
    return f'{heading}<div class="scroll" role="region" aria-label="{name}" tabindex="0">{table_html(block)}</div>'


def cell_html(cell: Cell, column: Column) -> str:
    """Return the content of a cell, escaped, with its emphasis and its marks."""
    if not isinstance(cell, Number):
        return _text(plain(cell, column))
    value = _TAGS[cell.emphasis].format(_text(value_text(cell, column)))
    marks = f"<sup>{_text(cell.marks)}</sup>" if cell.marks else ""
    return f"{value}{_text(spread_text(cell, column))}{marks}"


def _row(table: Table, index: int) -> str:
    cells = "".join(
        _cell(cell, column, place == 0)
        for place, (cell, column) in enumerate(zip(table.rows[index], table.columns, strict=True))
    )
    return f"<tr{' class=rule' if index in table.rules else ''}>{cells}</tr>"


def _cell(cell: Cell, column: Column, names_the_row: bool) -> str:
    tag = 'th scope="row"' if names_the_row else "td"
    value = f' data-value="{cell.value!r}"' if isinstance(cell, Number) else ""
    why = f' title="{_text(cell.why)}"' if isinstance(cell, Missing) and cell.why else ""
    words = "" if column.text or names_the_row else ' class="number"'
    return f"<{tag}{words}{value}{why}>{cell_html(cell, column)}</{tag.split()[0]}>"


def _better(column: Column) -> str:
    return f' data-better="{column.better}"' if column.better else ""


def _text(text: str) -> str:
    return escape(printable(text))
