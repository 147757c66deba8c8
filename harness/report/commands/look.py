"""`python -m harness.report look RUNS --sweep NAME`: whether every comparison, or every claim, has a verdict yet.

Exit codes: 0 decided, 1 undecided, 2 wrong input, or records that cannot be compared.
"""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo

_MOST_NAMED = 4


def main(arguments: Sequence[str]) -> int:
    """Print what is open, and return the exit code."""
    parser = argparse.ArgumentParser(prog="harness report look", description="Look whether a sweep is decided.")
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--sweep", required=True, metavar="NAME")
    given = parser.parse_args(arguments)
    try:
        lines = _open(given)
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    if not lines:
        echo("decided: every comparison has a verdict")
        return 0
    more = f" and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
    echo(f"undecided: {'; '.join(lines[:_MOST_NAMED])}{more}")
    return 1


def _open(given: argparse.Namespace) -> list[str]:
    from harness.report import load
    from harness.report.analysis.looks import undecided

    comparison = load(given.runs, given.sweep)
    assert comparison.guard, "rows that may be compared"
    return undecided(comparison)
