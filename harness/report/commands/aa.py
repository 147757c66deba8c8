"""`python -m harness.report aa RUNS`: how often seeds of one method, named as two methods, are called different."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo


def main(arguments: Sequence[str]) -> int:
    """Print a line for each method and task, then the rate of false verdicts; 0, or 2 for wrong input."""
    parser = argparse.ArgumentParser(
        prog="harness report aa",
        description="A/A test of a folder: the seeds of each method are divided into two halves in every way, and "
        "compared as two methods. Every verdict is false; their rate belongs beside the level.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    given = parser.parse_args(arguments)
    try:
        lines = _lines(given)
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    echo("\n".join(lines))
    return 0


def _lines(given: argparse.Namespace) -> list[str]:
    from harness.report import load
    from harness.report.analysis.aa import FEWEST, line, run

    tallies = run(load(given.runs, given.sweep))
    if not tallies:
        raise ValueError(f"no method has {FEWEST} seeds on a target task or the test rows: nothing can be divided")
    rows = [
        f"{one.method} on {one.title}: {one.seeds} seeds, {one.ways} ways, {one.false} false verdicts"
        + (f", {one.silent} without a verdict" if one.silent else "")
        for one in tallies
    ]
    return [*rows, line(tallies)]
