"""Parts that the commands on a comparison share: the runs and their sweep, the output, and the exit codes."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.untrusted import echo

if TYPE_CHECKING:
    from harness.report.analysis.comparison import Comparison


def parser_of(name: str, description: str) -> argparse.ArgumentParser:
    """Return a parser that takes runs folders and a sweep."""
    parser = argparse.ArgumentParser(prog=f"harness report {name}", description=description)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS", help="folders that hold <recipe_id>/seed-<n>/")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    return parser


def add_answer_options(parser: argparse.ArgumentParser, json_help: str) -> None:
    """Let the command compare as a report does, and print plain values."""
    parser.add_argument("--allow", metavar="KEYS", default="", help="as in a report")
    parser.add_argument("--json", action="store_true", help=json_help)


def compared(given: argparse.Namespace) -> Comparison:
    """Return the comparison of the given runs.

    Raises:
        ValueError: there is no such folder, no record, or several sweeps and none was named.
        IncomparableError: the rows differ in what was not declared to vary.
    """
    from harness.report import load
    from harness.report.data.load import only_sweep

    allowed = tuple(key for key in getattr(given, "allow", "").split(",") if key)
    comparison = load(given.runs, only_sweep(given.runs, given.sweep), allowed)
    assert comparison.guard, "rows that may be compared"
    return comparison


def as_json(values: Any) -> str:
    """Return plain values as JSON for people; an unknown value is null."""
    return json.dumps(values, allow_nan=False, ensure_ascii=False, indent=2)


def answered(make: Callable[[], str | Sequence[str]]) -> int:
    """Print the text or the lines, and return the exit code: 0; 2 for wrong input; 3 for rows not to be compared."""
    try:
        text = make()
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 3 if hasattr(error, "guard") else 2
    echo(text if isinstance(text, str) else "\n".join(text))
    return 0
