"""Documents as Markdown: tables with typed cells, lists, commands, and parts that open on a click."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.untrusted import code, escaped
from harness.report.display import table
from harness.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Command,
    Figure,
    Folded,
    Markup,
    Number,
    Section,
    Table,
    plain,
    raised,
    spread_text,
    value_text,
)


def to_markdown(title: str, sections: Sequence[Section]) -> str:
    """Return a page: its title, then every section under a heading of its own."""
    parts = [f"# {escaped(title)}"]
    for section in sections:
        parts += [f"## {escaped(section.title)}", *blocks(section.blocks)]
    return "\n\n".join(part for part in parts if part) + "\n"


def blocks(content: Iterable[Block]) -> list[str]:
    """Return every block as Markdown; an empty one vanishes."""
    return [text for block in content if (text := _block(block))]


def table_text(content: Table) -> str:
    """Return a table with its notes below: the best number bold, the second underlined."""
    if not content.rows:
        return ""
    header = [escaped(column.heading) for column in content.columns]
    lines = [[_cell(cell, column) for cell, column in zip(row, content.columns, strict=True)] for row in content.rows]
    left = [header[i] for i, column in enumerate(content.columns) if column.text]
    notes = "  \n".join(escaped(str(note)) for note in content.notes)
    return "\n\n".join(part for part in (table(header, lines, text=left), notes) if part)


def _block(block: Block) -> str:
    if isinstance(block, Bullets):
        return "\n".join(f"- {escaped(line)}" for line in block.lines)
    if isinstance(block, Command):
        return code(block.text) if block.text else ""
    if isinstance(block, Table):
        caption = escaped(block.caption) if block.rows else ""
        return "\n\n".join(part for part in (caption, table_text(block)) if part)
    if isinstance(block, Markup):
        return block.text
    if isinstance(block, Figure):
        return f"![{escaped(block.title)}]({block.path})\n\n{escaped(block.caption)}"
    if isinstance(block, Folded):
        inner = "\n\n".join(blocks(block.blocks))
        return f"<details>\n<summary>{escaped(block.summary)}</summary>\n\n{inner}\n\n</details>" if inner else ""
    return escaped(block)


def _cell(cell: Cell, column: Column) -> str:
    if not isinstance(cell, Number) or not cell.emphasis:
        return escaped(plain(cell, column))
    value = value_text(cell, column)
    tag = f"**{value}**" if cell.emphasis == "best" else f"<ins>{value}</ins>"
    return f"{tag}{spread_text(cell, column)}{raised(cell.marks)}"
