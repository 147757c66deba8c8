"""The comparison for the terminal: one compact table, at most 100 columns wide, and where the report lies."""

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from harness.records.untrusted import echo, printable, shortened
from harness.report.analysis import doubts, interrupted
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import Group
from harness.report.display import DASH, several
from harness.report.pages.answer import answer_of
from harness.report.pages.notes import trained_on
from harness.report.pages.summary import cost, quality

WIDTH = 100
COLOURS = {
    "ok": "green", "skipped": "yellow", "interrupted": "yellow", "oom": "red", "diverged": "red", "failed": "red",
    "missing": "magenta",
}  # fmt: skip
COST_COLUMNS = {"Peak memory, MiB": "Peak\nMiB", "Tokens/s": "Tok/s", "Training, s": "Train\ns"}


def show(comparison: Comparison, page: Path | None = None, console: Console | None = None) -> None:
    """Print the table, the runs without a result, the answer, and the path of the report if there is one."""
    console = console or _console()
    loaded, groups = comparison.loaded, comparison.groups
    console.print(table(groups))
    if loss := trained_on(groups):
        console.print(Text(printable(loss), style="dim"))
    if any(row.already_done for row in loaded.rows):
        console.print(Text("= already done, not run again", style="dim"))
    doubted = [group.label for group in groups if doubts.lines([group])]
    if doubted:
        said = f"timings to doubt, the report says why: {several(doubted, 4)}"
        console.print(Text(printable(said), style="yellow"))
    _failures(comparison, console)
    console.print(Text(printable(" ".join(answer_of(comparison)))))
    if page is not None:
        echo(f"report: {page}", file=console.file)  # plain, so that a long path is not broken


def show_statuses(comparison: Comparison, console: Console | None = None) -> None:
    """Print the status of every run, for runs whose scores must not stand in one table."""
    console = console or _console()
    for group in comparison.groups:
        if group.ok:
            console.print(Text.assemble(("ok", COLOURS["ok"]), f" {printable(group.label)}"))
    _failures(comparison, console)


def _console() -> Console:
    console = Console()
    return Console(width=min(console.width, WIDTH) if console.is_terminal else WIDTH)


def _failures(comparison: Comparison, console: Console) -> None:
    """Every run without a result, and every file that cannot be read."""
    for group in comparison.groups:
        for row in group.failed:
            status = row.status or "missing"
            name = f" {printable(row.label)} seed {row.seed}: "
            console.print(Text.assemble((status, COLOURS[status]), name, shortened(row.reason or DASH, 200)))
    for line in interrupted.lines(comparison.loaded):
        console.print(Text.assemble(("interrupted", COLOURS["interrupted"]), f" {printable(line)}"))
    for line in comparison.loaded.unreadable:
        console.print(Text.assemble(("could not be read", "red"), f" {printable(line)}"))


def table(groups: Sequence[Group]) -> Table:
    """The table: losses, the headline task and its difference to base, memory and speed."""
    scores, costs = quality(groups), cost(groups)
    has_task = [name for name in scores.header[5:7] if name not in ("Ties", "Status")]
    header = [
        "Method",
        "Status",
        "Seeds",
        "Val.\nloss",
        "Test\nloss",
        *(name.replace(" ", "\n", 1) for name in has_task),
    ]
    table = Table(box=box.SIMPLE_HEAD, padding=(0, 1, 0, 0), show_edge=False)
    for name in [*header, *COST_COLUMNS.values()]:
        justify = "left" if name in ("Method", "Status") else "right"
        table.add_column(Text(printable(name, keep="\n")), justify=justify, no_wrap=name != "Method", overflow="fold")  # type: ignore[arg-type]
    wanted = [costs.header.index(name) for name in COST_COLUMNS]
    for group, quality_line, cost_line in zip(groups, scores.lines, costs.lines, strict=True):
        losses = [cell.split(" ")[0] for cell in quality_line[2:4]]
        task = [quality_line[5].split(" ")[0], quality_line[6]] if has_task else []
        numbers = [quality_line[1], *losses, *task, *(cost_line[i] for i in wanted)]
        status = _status(group)
        table.add_row(_name(group), Text(status, style=COLOURS[status]), *numbers)
    return table


def _name(group: Group) -> Text:
    """Return the label, colored by status, with a mark for runs that already existed."""
    status = _status(group)
    text = Text(shortened(group.label, 60), style="" if group.ok else COLOURS[status])
    done = sum(row.already_done for row in group.rows)
    if done:
        text.append(" =" if done == len(group.rows) else f" ={done}/{len(group.rows)}", style="dim")
    return text


def _status(group: Group) -> str:
    return group.status
