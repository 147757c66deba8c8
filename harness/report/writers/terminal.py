"""The comparison for the terminal: the answer, the main table at the width of the line, failures, and the report."""

from pathlib import Path
from textwrap import wrap

from rich.console import Console
from rich.text import Text

from harness.records.untrusted import echo, printable, shortened
from harness.report.analysis import doubts, interrupted
from harness.report.analysis.comparison import Comparison
from harness.report.display import DASH, several
from harness.report.writers.grid import grid

WIDTH = 100  # where there is no terminal, as in a log file
WIDEST = 200
COLORS = {
    "ok": "green", "skipped": "yellow", "interrupted": "yellow", "oom": "red", "diverged": "red", "failed": "red",
    "missing": "magenta",
}  # fmt: skip


def show(comparison: Comparison, page: Path | None = None, console: Console | None = None) -> None:
    """Print the answer, the main table, the runs without a result, and the paths of the report if there is one."""
    console = console or _console()
    table = comparison.main_table
    console.print(grid(table, console.width))
    for note in table.notes:
        console.print(Text(printable(str(note)), style="dim"))
    _done(comparison, console)
    doubted = [group.name for group in comparison.groups if doubts.lines([group])]
    if doubted:
        console.print(Text(printable(f"Timing caveats, see the report: {several(doubted, 4)}"), style="yellow"))
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
            console.print(Text.assemble(("ok", COLORS["ok"]), f" {printable(group.name)}"))
    _failures(comparison, console)


def _console() -> Console:
    console = Console()
    return Console(width=min(console.width, WIDEST) if console.is_terminal else WIDTH)


def _answers(comparison: Comparison, console: Console) -> None:
    """Print the first sentence in bold, and the others as bullets."""
    for answer in comparison.answers:
        first, *others = answer.lines
        console.print(Text("\n".join(wrap(printable(first), console.width, break_on_hyphens=False)), style="bold"))
        for line in others:
            hanging = wrap(
                printable(line), console.width, initial_indent="- ", subsequent_indent="  ", break_on_hyphens=False
            )
            console.print(Text("\n".join(hanging)))


def _done(comparison: Comparison, console: Console) -> None:
    """Print which runs were reused, where any was."""
    rows = comparison.loaded.rows
    made = [row for row in rows if row.status != "skipped"]
    count = sum(row.already_done for row in made)
    if count:
        reused = "All runs were finished before" if count == len(made) else f"{count} of {len(made)} runs were reused"
        console.print(Text(f"{reused}.", style="dim"))


def _failures(comparison: Comparison, console: Console) -> None:
    """Print every run without a result, and every file that cannot be read."""
    for group in comparison.groups:
        for row in group.failed:
            status = row.status or "missing"
            name = f" {printable(row.name or row.label)}, seed {row.seed}: "
            console.print(Text.assemble((status, COLORS[status]), name, shortened(row.reason or DASH, 200)))
    for line in interrupted.lines(comparison.loaded):
        console.print(Text.assemble(("interrupted", COLORS["interrupted"]), f" {printable(line)}"))
    for line in comparison.loaded.unreadable:
        console.print(Text.assemble(("could not be read", "red"), f" {printable(line)}"))
