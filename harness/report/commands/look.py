"""`python -m harness.report look RUNS --sweep NAME`: whether every comparison, or every claim, has a verdict yet.

Exit codes: 0 decided, 1 undecided, 2 wrong input, or records that cannot be compared.
"""

import sys
from collections.abc import Sequence

from harness.records.untrusted import echo
from harness.report.commands.shared import compared, parser_of

_MOST_NAMED = 4


def main(arguments: Sequence[str]) -> int:
    """Print what is open, and return the exit code."""
    from harness.report.analysis.tested_claims import undecided

    given = parser_of("look", "Look whether a sweep is decided.").parse_args(arguments)
    try:
        lines = undecided(compared(given))
    except (ValueError, OSError) as error:
        echo(f"harness.report: {error}", file=sys.stderr)
        return 2
    more = f" and {len(lines) - _MOST_NAMED} more" if len(lines) > _MOST_NAMED else ""
    listed = f"undecided: {'; '.join(lines[:_MOST_NAMED])}{more}"
    echo(listed if lines else "decided: every comparison has a verdict")
    return int(bool(lines))
