"""`python -m harness.sweep status|rerun|extend NAME`: look at a sweep, or go on with one, from its records.

Exit codes: those of `python -m harness`; 2 when the input was wrong.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from harness.sweep.stored import Stored, find, further_values, words_again

_STATUSES = ("failed", "oom", "diverged")
_ORDER = ("ok", "skipped", "running", "waiting", "lacks evaluations", *_STATUSES)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parser().parse_args(arguments)
    try:
        stored = find(given.runs, given.name)
        if given.command == "status":
            print("\n".join(status(stored)))
            return 0
        words = _rerun(stored, given.status) if given.command == "rerun" else _extend(stored)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    if not words:
        print("nothing to extend: every chosen value lies inside of what was tried")
        return 0
    return subprocess.run([sys.executable, "-m", "harness", "-m", *words], check=False).returncode


def status(stored: Stored) -> list[str]:
    """How many runs are where, by stage, and why those that did not end well did not."""
    question = stored.record
    lines = [f"{question.name}: {question.question or question.command}"]
    for stage in dict.fromkeys(cell.stage for cell in question.cells):
        cells = {(c.recipe_id, c.seed): c for c in question.cells if c.stage == stage}.values()
        found = [(cell, *stored.status(cell)) for cell in cells]
        counts = Counter(state for _, state, _ in found)
        shown = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        lines.append(f"  {stage or 'runs':<6} {len(found)}: {shown}")
        for cell, state, reason in found:
            if state in ("running", "skipped", *_STATUSES):
                lines.append(
                    f"    {state} {cell.recipe_id}/seed-{cell.seed} ({_own(cell.overrides, stored)}): {reason}"
                )
    if question.tuning and question.tuning.choices is None:
        lines.append("  final  to be chosen when the trials have been made")
    return lines


def _own(overrides: Sequence[str], stored: Stored) -> str:
    """The words of a cell that are not the whole sweep's."""
    given = set(stored.record.arguments or ())
    return " ".join(word for word in overrides if word not in given) or "the defaults"


def _rerun(stored: Stored, statuses: Sequence[str]) -> list[str]:
    return words_again(stored, *_retry(statuses))


def _retry(statuses: Sequence[str]) -> list[str]:
    """What failed is made again whenever it is asked for; results that are no success only when it is said."""
    results = [status for status in statuses if status != "failed"]
    return [f"retry=[{','.join(results)}]"] if results else []


def _extend(stored: Stored) -> list[str]:
    values = further_values(stored)
    changed = [f"{setting}={','.join(f'{value:g}' for value in found)}" for setting, found in values.items()]
    for word in changed:
        print(f"every contestant is tried with {word}; what is done is not run again")
    return words_again(stored, *changed) if changed else []


def _statuses(text: str) -> list[str]:
    found = text.split(",")
    if unknown := [one for one in found if one not in _STATUSES]:
        raise argparse.ArgumentTypeError(f"{','.join(unknown)}: must be of {', '.join(_STATUSES)}")
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m harness.sweep", description="Look at a sweep, or go on with one.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, says in (
        ("status", "how many runs are done, running, waiting, failed, and why"),
        ("rerun", "make again what did not end well, keeping the attempts"),
        ("extend", "try one value more beyond every edge at which a chosen value lies, for every contestant"),
    ):
        command = commands.add_parser(name, help=says, description=says)
        command.add_argument("name", metavar="NAME", help="the sweep, as in runs/sweeps/NAME")
        command.add_argument("--runs", type=Path, default=Path("runs"), metavar="DIR", help="default: runs")
        if name == "rerun":
            known = ",".join(_STATUSES)
            command.add_argument("--status", type=_statuses, default=["failed"], metavar="A,B", help=f"of {known}")
    return parser


if __name__ == "__main__":
    sys.exit(main())
