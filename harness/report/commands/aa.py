"""`harness report aa RUNS`: how often seeds of one method, named as two methods, are called different."""

from __future__ import annotations

import argparse
from collections.abc import Sequence

from harness.report.commands.shared import answered, parser_of


def main(arguments: Sequence[str]) -> int:
    """Print a line for each method and task, then the rate of false verdicts; 0, or 2 for wrong input."""
    description = (
        "A/A test of a folder: the seeds of each method are divided into two halves in every way, and compared as two "
        "methods. Every verdict is false; their rate belongs beside the level."
    )
    given = parser_of("aa", description).parse_args(arguments)
    return answered(lambda: _lines(given))


def _lines(given: argparse.Namespace) -> list[str]:
    from harness.report import load
    from harness.report.analysis.noise import FEWEST, aa_line, aa_test

    tallies = aa_test(load(given.runs, given.sweep))
    if not tallies:
        raise ValueError(f"no method has {FEWEST} seeds on a target task or the test rows: nothing can be divided")
    rows = [
        f"{tally.method} on {tally.title}: {tally.seeds} seeds, {tally.ways} ways, {tally.false} false verdicts"
        + (f", {tally.silent} without a verdict" if tally.silent else "")
        for tally in tallies
    ]
    return [*rows, aa_line(tallies)]
