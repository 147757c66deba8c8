"""Sequential final seeds: after each seed the records are examined (a look), until every comparison is decided.

Looks are functions of the records. A restarted sweep repeats the same looks without a run until it reaches a missing
seed. This is how it resumes after an interrupt or when it is submitted to a cluster again.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from harness.config.experiment import Experiment
from harness.config.sweep_file import SweepFile, UntilDecided, setting_of
from harness.records.record import Choice, Looks, Tuning
from harness.run.progress import board

_UNDECIDED = 1  # exit code of `harness.report look`


def until_decided(asked: SweepFile, arguments: Sequence[str]) -> UntilDecided | None:
    """Return the rule by which seeds are added; None if the file or the command line fixes their number."""
    assert asked.stages is not None, "only a sweep with stages has final seeds"
    seeds = asked.stages.final.seeds
    fixed = any(setting_of(word) == "seed" for word in arguments)
    return seeds if isinstance(seeds, UntilDecided) and not fixed else None


def rounds(rule: UntilDecided | None, seeds: Sequence[str]) -> list[int]:
    """Return the numbers of seeds after which there is a look. The last look ends the sweep."""
    return [len(seeds)] if rule is None else list(range(rule.first, rule.most + 1))


def recorded(tuning: Tuning, rule: UntilDecided | None, choices: Sequence[Choice]) -> Tuning:
    """Return the tuning with the looks that decide about its final seeds."""
    if rule is None:
        return tuning
    methods = sum(choice.recipe_id is not None for choice in choices)
    return replace(tuning, looks=Looks(first=rule.first, most=rule.most, methods=methods))


def announce(rule: UntilDecided | None) -> None:
    """Print how seeds are added."""
    if rule is not None:
        board.say(
            f"looks       after {rule.first}, {rule.first + 1}, ... seeds, at most {rule.most}: the next seed is run "
            "for every recipe, until each comparison has a verdict"
        )


def decided(experiment: Experiment, name: str) -> bool | None:
    """Return True if every comparison has a verdict, False if not, and None if the look failed.

    The look runs in a separate process, since statistics need libraries that this process does not load.
    """
    command = [sys.executable, "-m", "harness.report", "look", experiment.runs_dir, "--sweep", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (result.stdout or result.stderr).splitlines():
        board.say(f"  {line}")
    return {0: True, _UNDECIDED: False}.get(result.returncode)
