"""A table for the terminal: errors go first, then columns by their priority, until it fits the line."""

from __future__ import annotations

from collections.abc import Iterator
from textwrap import wrap

from rich import box
from rich.table import Table as Grid
from rich.text import Text as Styled

from harness.records.untrusted import printable
from harness.report.document import Cell, Column, Number, Table, Text, plain, raised, spread_text, value_text

NARROWEST = 14  # characters of the first column, which breaks at words before a column of numbers is dropped
GAP = 2  # characters between columns: the padding and the divider
TONES = {"": "", "good": "green", "warn": "yellow", "bad": "red", "dim": "dim"}
EMPHASIS = {"": "", "best": "bold", "second": "underline"}


def grid(table: Table, width: int) -> Grid:
    """Return the widest layout of the table that fits a line of this many characters."""
    layouts = [*_layouts(table)]
    chosen, errors = next((layout for layout in layouts if _width(*layout) <= width), layouts[-1])
    drawn = Grid(box=box.SIMPLE_HEAD, padding=(0, GAP - 1, 0, 0), pad_edge=False, show_edge=False)
    for place, column in enumerate(chosen.columns):
        drawn.add_column(
            Styled("\n".join(_header(chosen, place, errors))),
            justify="left" if place == 0 or column.text else "right",
            no_wrap=place > 0,
            min_width=_least(chosen, place, errors),
            overflow="fold",
        )
    for index, row in enumerate(chosen.rows):
        if index in chosen.rules:
            drawn.add_section()
        drawn.add_row(*(_styled(cell, column, errors) for cell, column in zip(row, chosen.columns, strict=True)))
    return drawn


def _layouts(table: Table) -> Iterator[tuple[Table, bool]]:
    """Yield the table from its widest layout to its narrowest."""
    yield table, True
    yield table, False
    left = table
    for priority in sorted({column.priority for column in table.columns if column.priority}, reverse=True):
        left = left.select(column.key for column in left.columns if column.priority < priority)
        yield left, False


def _width(table: Table, errors: bool) -> int:
    """Return the characters that the layout needs at least."""
    return sum(_least(table, place, errors) + GAP for place in range(len(table.columns))) - GAP


def _least(table: Table, place: int, errors: bool) -> int:
    """Return the width of a column; the first one may break its words over several lines."""
    longest = max((len(printable(plain(row[place], table.columns[place], errors))) for row in table.rows), default=0)
    widest = max(longest, *map(len, _header(table, place, errors)))
    return min(widest, NARROWEST) if place == 0 else widest


def _header(table: Table, place: int, errors: bool) -> list[str]:
    """Return the lines of a heading: on one line if all fit, else the title at the width of the cells and the unit."""
    if all(len(_heading(column)) <= _room(table, index, errors) for index, column in enumerate(table.columns)):
        return [_heading(table.columns[place])]
    column = table.columns[place]
    unit = printable(column.heading[len(column.title) :]).strip()
    return [*wrap(printable(column.title), _room(table, place, errors)), *([unit] if unit else [])]


def _heading(column: Column) -> str:
    return printable(column.heading)


def _room(table: Table, place: int, errors: bool) -> int:
    """Return the width of the cells of a column, and of the longest word above them."""
    column = table.columns[place]
    cells = (len(printable(plain(row[place], column, errors))) for row in table.rows)
    return max((*cells, *map(len, column.title.split())), default=1)


def _styled(cell: Cell, column: Column, errors: bool) -> Styled:
    if isinstance(cell, Number) and cell.emphasis:
        tail = f"{spread_text(cell, column) if errors else ''}{raised(cell.marks)}"
        return Styled.assemble((value_text(cell, column), EMPHASIS[cell.emphasis]), tail)
    tone = cell.tone if isinstance(cell, Text) else ""
    return Styled(printable(plain(cell, column, errors)), style=TONES[tone])
