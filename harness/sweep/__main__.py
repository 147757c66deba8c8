"""`python -m harness.sweep COMMAND NAME`: register, inspect or continue a sweep.

Commands: register, submit, next, status, collect, cancel, rerun, extend.

Exit codes: those of `python -m harness`; 2 if the input was wrong, 130 after an interrupt. `next` has 0 when it made a
run, however that ended, and 3 when none is left.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

from harness.records.untrusted import echo
from harness.sweep.cluster import control
from harness.sweep.cluster.submissions import Tasks
from harness.sweep.local import NONE_LEFT
from harness.sweep.status import FAILURES, Stored, document, find, further_values, is_over, lines, standing, words_again

_COMMANDS = {
    "register": "store question, claims, cells, seeds, code and data of a sweep with a digest, before its first run",
    "submit": "submit the missing runs of sweeps/NAME.yaml to SLURM and return",
    "next": "execute one open run; any number of workers may do so at once; exit code 3 if none is left",
    "status": "count the runs that are done, running, waiting or failed, with reasons",
    "collect": "record runs that SLURM ended and write the report of the finished ones",
    "cancel": "cancel the unfinished runs on a cluster",
    "rerun": "run the failed runs again; earlier attempts stay in the records",
    "extend": "extend the tuning grid of every contestant beyond the edges at which chosen values lie",
}

_TAKE_SETTINGS = ("register", "submit", "next", "rerun", "extend")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    given = _parsed(arguments)
    try:
        return _run(given)
    except (ValueError, OSError) as error:
        echo(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        echo("interrupted: what is on the cluster goes on", file=sys.stderr)
        return 130


def _run(given: argparse.Namespace) -> int:
    if given.command == "submit":
        return _harness(_submission(given.runs, given.name, given.words))
    if given.command == "next":
        return _next(given)
    if given.command == "register":
        return _register(given.runs, given.name, given.words)
    stored = find(given.runs, given.name)
    if given.command == "status":
        return _status(stored, given.json)
    if given.command == "collect":
        return control.collect(stored, given.wait)
    if given.command == "cancel":
        return control.cancel(stored)
    changed = _retry(given.status) if given.command == "rerun" else _extend(stored)
    if given.command == "extend" and not changed:
        echo("nothing to extend: every chosen value lies inside of what was tried")
        return 0
    return _harness(words_again(stored, *changed, *given.words))


def _harness(words: Sequence[str]) -> NoReturn:
    """Replace this process by the main command, so that Ctrl-C and a scheduler's signals reach it directly."""
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "harness", "-m", *words])


def _next(given: argparse.Namespace) -> int:
    """Become a worker of the sweep; return only where no run of it is left."""
    here = [f"runs_dir={given.runs}"] if given.runs != Path("runs") else []
    words = [f"sweep={given.name}", *here, *given.words]
    if (given.runs / "sweeps" / given.name / "sweep.json").exists():
        stored = find(given.runs, given.name)
        runs = standing(stored)
        if not given.all and not given.words and is_over(stored, runs):
            ended = sum(run.ended_well for run in runs)
            if given.json:
                outcome = {"outcome": "none left", "made": [], "exit_code": NONE_LEFT}
                echo(json.dumps({**outcome, **document(stored, runs)}, indent=1))
            else:
                echo(f"{given.name}: no run is left; {ended} of {len(runs)} ended well")
            return NONE_LEFT
        words = words_again(stored, *given.words, given_again=given.words)
    words = [*words, "hydra/launcher=worker", f"hydra.launcher.once={'false' if given.all else 'true'}"]
    _harness([*words, f"hydra.launcher.outcome={_own_stdout()}"] if given.json else words)


def _own_stdout() -> str:
    """Return a file that stands for standard output, which from now on goes to standard error."""
    sys.stdout.flush()
    copy = os.dup(1)
    os.set_inheritable(copy, True)
    os.dup2(2, 1)
    return f"/dev/fd/{copy}"


def _submission(runs: Path, name: str, words: Sequence[str]) -> list[str]:
    if (runs / "sweeps" / name / "sweep.json").exists():
        return control.submission_words(name, find(runs, name), words)
    here = [f"runs_dir={runs}"] if runs != Path("runs") else []
    return control.submission_words(name, None, [*here, *words])


def _register(runs: Path, name: str, words: Sequence[str]) -> int:
    from harness.sweep.sweep_records import register  # imported here: no other command composes

    here = [f"runs_dir={runs}"] if runs != Path("runs") else []
    echo("\n".join(register(name, [*here, *words], runs)))
    return 0


def _status(stored: Stored, as_json: bool) -> int:
    tasks = None
    try:
        tasks = Tasks(stored.runs_dir, stored.record.name)
    except OSError as error:
        echo(f"what waits and runs on the cluster is not known here: {error}", file=sys.stderr)
    runs = standing(stored, tasks)
    echo(json.dumps(document(stored, runs), indent=1) if as_json else "\n".join(lines(stored, runs, tasks)))
    return 0


def _retry(statuses: Sequence[str]) -> list[str]:
    """Return the `rerun` setting. Failed runs are always retried; other results only if their status is given."""
    results = [status for status in statuses if status != "failed"]
    return [f"rerun=[{','.join(results)}]"] if results else []


def _extend(stored: Stored) -> list[str]:
    values = further_values(stored)
    changed = [f"{setting}={','.join(f'{value:g}' for value in numbers)}" for setting, numbers in values.items()]
    for word in changed:
        echo(f"every contestant is tried with {word}; what is done is not run again")
    return changed


def _statuses(text: str) -> list[str]:
    names = text.split(",")
    if unknown := [name for name in names if name not in FAILURES]:
        raise argparse.ArgumentTypeError(f"{','.join(unknown)}: must be of {', '.join(FAILURES)}")
    return names


def _parsed(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options, and as `words` the settings of the main command, which may stand anywhere among them."""
    parser = _parser()
    given, others = parser.parse_known_args(arguments)
    wrong = [word for word in others if word.startswith("-") or "=" not in word or given.command not in _TAKE_SETTINGS]
    if wrong:
        parser.error(f"unrecognized arguments: {' '.join(wrong)}")
    given.words = others
    return given


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="harness sweep", description="Register, submit, inspect or continue a sweep.")
    commands = parser.add_subparsers(dest="command", required=True)
    for name, says in _COMMANDS.items():
        command = commands.add_parser(name, help=says, description=says)
        command.add_argument(
            "name", metavar="NAME", help="name of the sweep, as in sweeps/NAME.yaml or runs/sweeps/NAME"
        )
        command.add_argument(
            "--runs", type=Path, default=Path("runs"), metavar="DIR", help="runs folder (default: runs)"
        )
        if name == "rerun":
            statuses = ",".join(FAILURES)
            command.add_argument(
                "--status",
                type=_statuses,
                default=["failed"],
                metavar="A,B",
                help=f"statuses to run again, of {statuses} (default: failed)",
            )
        if name == "next":
            command.add_argument(
                "--all", action="store_true", help="continue until no run is left, then write the report"
            )
            command.add_argument(
                "--json", action="store_true", help="print one object: outcome, made, exit_code, and the status"
            )
        if name == "status":
            command.add_argument("--json", action="store_true", help="print one JSON object with every run")
        if name == "collect":
            command.add_argument(
                "--wait", action="store_true", help="wait until no run of the sweep is running or waiting"
            )
        if name in _TAKE_SETTINGS:
            command.epilog = "SETTING=VALUE words after NAME are settings of the main command."
    return parser


if __name__ == "__main__":
    from harness.__main__ import run_command

    run_command(main)
