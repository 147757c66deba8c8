"""`harness report answer RUNS --sweep NAME [--json]`: the answer of a report, without writing one.

Exit codes: 0 answered, 2 wrong input, 3 the rows cannot be compared.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.report.commands.shared import add_answer_options, answered, as_json, compared, parser_of


def main(arguments: Sequence[str]) -> int:
    """Print the answer for every base model, as sentences or as JSON, and return the exit code."""
    description = (
        "Print the answer: the best method, the methods that tie with it, and the cheapest that is good enough. --json "
        "prints a list with one object per base model: lines, task, metric, base, best, others, detectable, tolerance, "
        "cheapest, memory; scores are fractions, memory is in bytes, unknown values are null."
    )
    parser = parser_of("answer", description)
    add_answer_options(parser, "print plain values")
    given = parser.parse_args(arguments)
    return answered(lambda: _text(given))


def _text(given: argparse.Namespace) -> str:
    answers = compared(given).answers
    if given.json:
        return as_json([answer.record() for answer in answers])
    return "\n".join(line for answer in answers for line in answer.lines)
