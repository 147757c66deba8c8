"""`python -m harness.report import-peft DIR`: published rows as external records, and what the guard finds in them."""

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo


def main(arguments: Sequence[str]) -> int:
    """Read, check and write; 0, or 2 where there is nothing to read."""
    given = _parser().parse_args(arguments)
    from harness.report.analysis.external import guard, keep, read_peft

    try:
        records, problems = read_peft(given.folder)
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    for problem in problems:
        echo(f"harness.report: could not be read: {problem}", file=sys.stderr)
    differences = guard(records)
    echo(f"{len(records)} rows read from {given.folder}, one seed each, no outcomes per item: nothing can be paired")
    echo("undeclared differences:" if differences else "no undeclared difference")
    for difference in differences:
        echo(f"  {difference}")
    echo(f"written: {keep(records, given.out)}; a report of the runs in {given.out} shows them as external rows")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="harness report import-peft",
        description="Turn the result files of PEFT's method comparison into external records below a runs folder.",
    )
    parser.add_argument("folder", type=Path, metavar="DIR", help="holds one JSON file per experiment")
    parser.add_argument("--out", type=Path, default=Path("runs"), metavar="RUNS", help="default: runs")
    return parser
