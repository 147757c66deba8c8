"""`harness report answer RUNS --sweep NAME [--json]`: the answer of a report, without writing one.

Exit codes: 0 answered, 2 wrong input, 3 the rows cannot be compared.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from harness.records.untrusted import echo


def main(arguments: Sequence[str]) -> int:
    """Print the answer for every base model, as sentences or as JSON, and return the exit code."""
    parser = argparse.ArgumentParser(
        prog="harness report answer",
        description="Print the answer: the best method, the methods that tie with it, and the cheapest that is good "
        "enough. --json prints a list with one object per base model: lines, task, metric, base, best, others, "
        "detectable, tolerance, cheapest, memory; scores are fractions, memory is in bytes, unknown values are null.",
    )
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUNS")
    parser.add_argument("--sweep", metavar="NAME", help="only this sweep")
    parser.add_argument("--allow", metavar="KEYS", default="", help="as in a report")
    parser.add_argument("--json", action="store_true", help="print plain values")
    given = parser.parse_args(arguments)
    try:
        text = _text(given)
    except (ValueError, OSError) as error:  # IncomparableError is one
        echo(f"harness.report: {error}", file=sys.stderr)
        return 3 if hasattr(error, "guard") else 2
    echo(text)
    return 0


def _text(given: argparse.Namespace) -> str:
    from harness.report import load
    from harness.report.data.load import only_sweep

    allowed = tuple(key for key in given.allow.split(",") if key)
    comparison = load(given.runs, only_sweep(given.runs, given.sweep), allowed)
    assert comparison.guard, "rows that may be compared"
    if given.json:
        return json.dumps(
            [answer.record() for answer in comparison.answers], allow_nan=False, ensure_ascii=False, indent=2
        )
    return "\n".join(line for answer in comparison.answers for line in answer.lines)
