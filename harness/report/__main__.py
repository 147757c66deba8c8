"""`python -m harness.report RUNS...`: records -> reports/<name>/ again. Needs neither torch nor a network.

Exit codes: 0 written; 1 written but not mirrored; 2 the input was wrong, with one line that says what; 3 refused, since
the rows differ in what was not declared to vary: names each key, its values and the rows that have them.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from harness.records import event_files
from harness.records.help_text import HelpFormatter
from harness.records.untrusted import echo
from harness.report.commands import COMMANDS, above_zero, keys, run, warn

if TYPE_CHECKING:
    from harness.report.analysis.comparison import Comparison
    from harness.report.data.rows import Loaded


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    words = sys.argv[1:] if arguments is None else list(arguments)
    if words and words[0] in COMMANDS:
        return run(words[0], words[1:])
    given = _parser().parse_args(words)
    if given.tensorboard and not event_files.installed():
        return _wrong(ValueError(f"--tensorboard {event_files.MISSING}"))
    try:
        names = _names(given)
    except ValueError as error:
        return _wrong(error)
    return max(_make(name, given) for name in names)


def _parser() -> argparse.ArgumentParser:
    others = "\n".join(f"  {name:<15} {what}" for name, (_, what) in COMMANDS.items())
    parser = argparse.ArgumentParser(
        prog="harness report",
        description=f"Make reports from run records.\n\nOther commands, each with --help:\n{others}",
        formatter_class=HelpFormatter,
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders that hold <recipe_id>/seed-<n>/")
    parser.add_argument(
        "--sweep", metavar="NAME", help="report on this sweep only (default: one report per sweep, or one on all runs)"
    )
    parser.add_argument("--out", type=Path, metavar="DIR", help="the report's folder (default: REPORTS/NAME)")
    parser.add_argument("--reports-dir", type=Path, default=Path("reports"), metavar="REPORTS")
    parser.add_argument(
        "--csv", metavar="PATH", help="write the flat table to PATH ('-': standard output) instead of a report"
    )
    parser.add_argument(
        "--allow",
        type=keys,
        metavar="KEYS",
        default=(),
        help="list undeclared differences in these keys instead of refusing; a key covers all keys below it",
    )
    parser.add_argument(
        "--margin",
        type=above_zero,
        metavar="DIFFERENCE",
        help="equivalence margin in the metric's unit (default: that of the sweep, else 0.01)",
    )
    parser.add_argument(
        "--price", type=above_zero, metavar="P", help="price of one device hour (default: the price in the records)"
    )
    parser.add_argument("--terminal", action="store_true", help="also print the table")
    mirror = parser.add_argument_group("Weights & Biases")
    mirror.add_argument("--wandb", choices=("offline", "online"), help="log the comparison as a separate run")
    mirror.add_argument("--wandb-project", default="harness", metavar="PROJECT")
    mirror.add_argument("--wandb-entity", metavar="ENTITY")
    mirror.add_argument("--wandb-group", metavar="GROUP", help="default: the sweep's name")
    mirror.add_argument("--wandb-dir", type=Path, metavar="DIR", help="folder for its files, DIR/wandb (default: RUNS)")
    board = parser.add_argument_group("TensorBoard")
    board.add_argument("--tensorboard", type=Path, metavar="DIR", help="write the comparison to DIR as event files")
    return parser


def _names(given: argparse.Namespace) -> list[str | None]:
    """Return the named sweep, else every sweep, else None for all runs. A flat table is always a single report.

    Raises:
        ValueError: a folder is not there, or several reports would share one folder.
    """
    from harness.report.data.load import check_folders, sweep_names

    check_folders(given.runs)
    every = sweep_names(given.runs)
    if given.sweep or given.csv or not every:
        return [given.sweep]
    if given.out and len(every) > 1:
        raise ValueError(
            f"--out is one folder and there are {len(every)} sweeps: add --sweep, one of {', '.join(every)}"
        )
    return [*every]


def _make(name: str | None, given: argparse.Namespace) -> int:
    """Write, print and mirror the requested reports, and return the exit code. Unreadable files go to stderr."""
    from harness.report.analysis.axes import priced
    from harness.report.data.load import load

    try:
        loaded = replace(priced(load(given.runs, name), given.price), allowed=given.allow)
        loaded = replace(loaded, margin=given.margin or loaded.margin)
        parts = _parts(loaded, given)
    except (ValueError, OSError) as error:
        return _wrong(error)
    for problem in loaded.unreadable:
        warn(f"could not be read: {problem}")
    return max(_make_one(part, given) for part in parts)


def _parts(loaded: "Loaded", given: argparse.Namespace) -> list["Loaded"]:
    """Return a sweep whole and other runs in comparable sets. A flat table compares nothing and takes every row.

    Raises:
        ValueError: several sets would share one folder.
    """
    if loaded.sweep or given.csv:
        return [loaded]
    from harness.report.analysis.facts import comparable_sets

    parts = comparable_sets(loaded)
    if given.out and len(parts) > 1:
        raise ValueError(
            f"--out is one folder, and the runs below {', '.join(map(str, given.runs))} make {len(parts)} sets that "
            "cannot be compared with each other: leave --out away for a report of each, or --allow what may differ"
        )
    return parts


def _make_one(loaded: "Loaded", given: argparse.Namespace) -> int:
    from harness.report.analysis.comparable import IncomparableError
    from harness.report.analysis.comparison import Comparison

    comparison = Comparison(loaded)
    try:
        page = _write(comparison, given)
    except IncomparableError as error:
        if given.terminal:
            from harness.report.writers.terminal import show_statuses

            show_statuses(comparison)
        warn(error)
        return 3
    except (ValueError, OSError) as error:
        return _wrong(error)
    if given.terminal:
        from harness.report.writers.terminal import show

        show(comparison, page)
    elif page:
        echo(f"report: {page}")
    return _mirror(comparison, page.parent, given) if page else 0


def _wrong(error: Exception) -> int:
    warn(error)
    return 2


def _write(comparison: "Comparison", given: argparse.Namespace) -> Path | None:
    """Write the report and return its page, or write the flat table alone."""
    from harness.report import name_of, write_comparison

    loaded = comparison.loaded
    if not given.csv:
        return write_comparison(comparison, given.out or given.reports_dir / name_of(loaded))
    from harness.records.record import write_text
    from harness.report.writers.flat import to_csv

    if given.csv == "-":
        echo(to_csv(loaded.rows).removesuffix("\n"))
    else:
        write_text(to_csv(loaded.rows), Path(given.csv))
    return None


def _mirror(comparison: "Comparison", report: Path, given: argparse.Namespace) -> int:
    """Log to the requested mirrors. A mirror that fails is named and does not stop the report."""
    wanted = {"wandb": given.wandb and _to_wandb, "tensorboard": given.tensorboard and _to_tensorboard}
    code = 0
    for name, log in wanted.items():
        try:
            if log:
                log(comparison, report, given)
        except Exception as error:  # whatever a client of that size raises, the report is written
            warn(f"not logged to {name}: {type(error).__name__}: {error}")
            code = 1
    return code


def _to_wandb(comparison: "Comparison", report: Path, given: argparse.Namespace) -> None:
    from harness.report import name_of
    from harness.report.writers.mirrors import Mirror, log_comparison

    name = name_of(comparison.loaded)
    mirror = Mirror(
        mode=given.wandb,
        folder=given.wandb_dir or given.runs[0],
        project=given.wandb_project,
        entity=given.wandb_entity,
        group=given.wandb_group or name,
    )
    log_comparison(comparison, name, report, mirror)


def _to_tensorboard(comparison: "Comparison", report: Path, given: argparse.Namespace) -> None:
    from harness.report import name_of
    from harness.report.writers.mirrors import write_event_files

    write_event_files(comparison, name_of(comparison.loaded), report, given.tensorboard)


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
