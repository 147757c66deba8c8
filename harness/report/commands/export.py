"""`harness report export RUNS --out DIR`: runs with their scores in the schema of Every Eval Ever.

Exit codes: 0 written; 1 written and not valid (--check); 2 the input was wrong.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo
from harness.report.writers.every_eval_ever import RELATIONSHIPS, UNKNOWN, Evaluator, faults, write


def main(arguments: Sequence[str]) -> int:
    """Write the documents and return the exit code."""
    given = _parser().parse_args(arguments)
    from harness.report.data.load import load, only_sweep

    try:
        loaded = load(given.runs, only_sweep(given.runs, given.sweep))
        paths = write(loaded.rows, Evaluator(given.organization, given.relationship), given.out)
        wrong = faults(paths) if given.check else []
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    if given.json:
        echo(json.dumps({"written": [str(path) for path in paths], "faults": wrong if given.check else None}, indent=2))
    else:
        checked = f", {len(wrong)} faults" if given.check else ""
        echo(f"{len(paths)} runs written to {given.out}{checked}")
    for line in wrong:
        echo(f"harness.report: {line}", file=sys.stderr)
    return 1 if wrong else 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report export", description="Write each run with its scores as a document of Every Eval Ever."
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="for one JSON file per run")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    parser.add_argument("--organization", default=UNKNOWN, metavar="WHO", help="who publishes them (default: unknown)")
    parser.add_argument("--relationship", choices=RELATIONSHIPS, default="other", help="to the model (default: other)")
    parser.add_argument("--check", action="store_true", help="hold them against the schema of the package")
    parser.add_argument("--json", action="store_true", help="print JSON")
    return parser
