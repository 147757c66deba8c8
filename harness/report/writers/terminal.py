"""The comparison for the terminal: the answer, the main table at the width of the line, failures, and the report."""

from collections.abc import Iterator
from pathlib import Path
from textwrap import wrap

from rich import box
from rich.console import Console
from rich.table import Table as Grid
from rich.text import Text as Styled

from harness.records.untrusted import echo, printable, shortened
from harness.report.analysis import axes, remarks
from harness.report.analysis.comparison import Comparison
from harness.report.display import DASH, several
from harness.report.document import Cell, Column, Number, Table, Text, plain, raised, spread_text, value_text

WIDTH = 100  # where there is no terminal, as in a log file
WIDEST = 200
COLORS = {
    "ok": "green", "skipped": "yellow", "interrupted": "yellow", "oom": "red", "diverged": "red", "failed": "red",
    "missing": "magenta",
}  # fmt: skip
NARROWEST = 14  # characters of the first column, which breaks at words before a column of numbers is dropped
GAP = 2  # characters between columns: the padding and the divider
TONES = {"": "", "good": "green", "warn": "yellow", "bad": "red", "dim": "dim"}
EMPHASIS = {"": "", "best": "bold", "second": "underline"}


def show(comparison: Comparison, page: Path | None = None, console: Console | None = None) -> None:
    """Print the answer, the main table, the runs without a result, and the paths of the report if there is one."""
    console = console or _console()
    table = comparison.main_table
    console.print(grid(table, console.width))
    for note in table.notes:
        console.print(Styled(printable(str(note)), style="dim"))
    _done(comparison, console)
    doubted = [group.name for group in comparison.groups if axes.timing_caveats([group])]
    if doubted:
        console.print(Styled(printable(f"Timing caveats, see the report: {several(doubted, 4)}"), style="yellow"))
    _failures(comparison, console)
    console.print()
    _answers(comparison, console)
    if page is not None:
        echo(f"page: {page.parent / 'index.html'}", file=console.file)  # plain, so that a long path is not broken
        echo(f"report: {page}", file=console.file)


def show_statuses(comparison: Comparison, console: Console | None = None) -> None:
    """Print the status of every run, for runs whose scores must not stand in one table."""
    console = console or _console()
    for group in comparison.groups:
        if group.ok:
            console.print(Styled.assemble(("ok", COLORS["ok"]), f" {printable(group.name)}"))
    _failures(comparison, console)


def _console() -> Console:
    console = Console()
    return Console(width=min(console.width, WIDEST) if console.is_terminal else WIDTH)


def _answers(comparison: Comparison, console: Console) -> None:
    """Print the first sentence in bold, and the others as bullets."""
    for answer in comparison.answers:
        first, *others = answer.lines
        console.print(Styled("\n".join(wrap(printable(first), console.width, break_on_hyphens=False)), style="bold"))
        for line in others:
            hanging = wrap(
                printable(line), console.width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
            )
            console.print(Styled("\n".join(hanging)))


def _done(comparison: Comparison, console: Console) -> None:
    """Print which runs were reused, where any was."""
    rows = comparison.loaded.rows
    made = [row for row in rows if row.status != "skipped"]
    count = sum(row.already_done for row in made)
    if count:
        reused = "All runs were finished before" if count == len(made) else f"{count} of {len(made)} runs were reused"
        console.print(Styled(f"{reused}.", style="dim"))


def _failures(comparison: Comparison, console: Console) -> None:
    """Print every run without a result, and every file that cannot be read."""
    for group in comparison.groups:
        for row in group.failed:
            status = row.status or "missing"
            name = f" {printable(row.name or row.label)}, seed {row.seed}: "
            console.print(Styled.assemble((status, COLORS[status]), name, shortened(row.reason or DASH, 200)))
    for line in remarks.interruptions(comparison.loaded):
        console.print(Styled.assemble(("interrupted", COLORS["interrupted"]), f" {printable(line)}"))
    for line in comparison.loaded.unreadable:
        console.print(Styled.assemble(("could not be read", "red"), f" {printable(line)}"))


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
