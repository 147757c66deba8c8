"""Documents as Markdown: tables with typed cells, lists, commands, and parts that open on a click."""

from collections.abc import Sequence

from harness.records.untrusted import code, escaped
from harness.report.display import table
from harness.report.document import (
    Block,
    Bullets,
    Cell,
    Column,
    Command,
    Figure,
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
    """Return a page: its title, then every section with content under a heading of its own."""
    return "\n\n".join([f"# {escaped(title)}", *filter(None, map(section_text, sections))]) + "\n"


def section_text(section: Section, folded: bool = False) -> str:
    """Return a section under its heading, or behind it until a reader opens it; "" without content.

    A table without a caption stands below its title, where the section has another one.
    """
    if not section.has_content:
        return ""
    inner = "\n\n".join(text for block in section.blocks if (text := _block(block, section.title)))
    if folded:
        return f"<details>\n<summary>{escaped(section.title)}</summary>\n\n{inner}\n\n</details>"
    return f"## {escaped(section.title)}\n\n{inner}"


def table_text(content: Table) -> str:
    """Return a table with its notes below: the best number bold, the second underlined."""
    if not content.rows:
        return ""
    header = [escaped(column.heading) for column in content.columns]
    lines = [[_cell(cell, column) for cell, column in zip(row, content.columns, strict=True)] for row in content.rows]
    left = [header[i] for i, column in enumerate(content.columns) if column.text]
    notes = "  \n".join(escaped(str(note)) for note in content.notes)
    return "\n\n".join(part for part in (table(header, lines, text=left), notes) if part)


def _block(block: Block, title: str) -> str:
    if isinstance(block, Bullets):
        return "\n".join(f"- {escaped(line)}" for line in block.lines)
    if isinstance(block, Command):
        return code(block.text) if block.text else ""
    if isinstance(block, Table):
        heading = escaped(block.caption) or (f"#### {escaped(block.title)}" if block.title not in ("", title) else "")
        return "\n\n".join(part for part in (heading, table_text(block)) if part) if block.rows else ""
    if isinstance(block, Markup):
        return block.text
    if isinstance(block, Figure):
        return f"![{escaped(block.title)}]({block.path})\n\n{escaped(block.caption)}"
    return escaped(block)


def _cell(cell: Cell, column: Column) -> str:
    if not isinstance(cell, Number) or not cell.emphasis:
        return escaped(plain(cell, column))
    value = value_text(cell, column)
    tag = f"**{value}**" if cell.emphasis == "best" else f"<ins>{value}</ins>"
    return f"{tag}{spread_text(cell, column)}{raised(cell.marks)}"
