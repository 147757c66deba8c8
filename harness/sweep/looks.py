"""Final seeds that are added until every comparison is decided: a look at the records after each of them.

Looks are functions of the records. A sweep that is started again goes through the same looks, without a run, until it
comes to seeds that are missing: so it resumes after an interruption, and when it is submitted again to a cluster.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

from harness.config.experiment import Experiment
from harness.config.question import Question, UntilDecided, setting_of
from harness.records.record import Choice, Looks, Tuning
from harness.run.progress import board

_UNDECIDED = 1  # exit code of `harness.report look`


def until_decided(asked: Question, arguments: Sequence[str]) -> UntilDecided | None:
    """Return the rule by which seeds are added; None where the file or the command line fixes their number."""
    assert asked.stages is not None, "only a sweep with stages has final seeds"
    seeds = asked.stages.final.seeds
    fixed = any(setting_of(word) == "seed" for word in arguments)
    return seeds if isinstance(seeds, UntilDecided) and not fixed else None


def rounds(rule: UntilDecided | None, seeds: Sequence[str]) -> list[int]:
    """Return the numbers of seeds after which the records are looked at; the last look ends the sweep."""
    return [len(seeds)] if rule is None else list(range(rule.first, rule.most + 1))


def recorded(tuning: Tuning, rule: UntilDecided | None, choices: Sequence[Choice]) -> Tuning:
    """Return the tuning with the looks that its final seeds are taken by."""
    if rule is None:
        return tuning
    methods = sum(choice.recipe_id is not None for choice in choices)
    return replace(tuning, looks=Looks(first=rule.first, most=rule.most, methods=methods))


def announce(rule: UntilDecided | None) -> None:
    """Say how seeds are added."""
    if rule is not None:
        board.say(
            f"  looks       after {rule.first}, {rule.first + 1}, ... seeds, at most {rule.most}: the next seed is run "
            "for every recipe, until each comparison has a verdict"
        )


def decided(experiment: Experiment, name: str) -> bool | None:
    """Return whether every comparison has a verdict; None where the records cannot be looked at.

    It runs in a process of its own: statistics need libraries that this process does without.
    """
    command = [sys.executable, "-m", "harness.report", "look", experiment.runs_dir, "--sweep", name]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    for line in (result.stdout or result.stderr).splitlines():
        board.say(f"  {line}")
    return {0: True, _UNDECIDED: False}.get(result.returncode)
