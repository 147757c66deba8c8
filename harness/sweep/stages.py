"""Stages of a sweep: trials on validation data, chosen recipes on test data, and seeds added until it is decided."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser

from harness.config.experiment import Experiment, evaluations
from harness.config.overrides import Cell, expand
from harness.config.sweep_file import SweepFile, Tune, UntilDecided, reused_seeds, setting_of
from harness.records import record, selection
from harness.records.record import Choice, EvaluationRecord, Looks, Tuning
from harness.records.seeds import parsed
from harness.run import state
from harness.run.progress import board
from harness.sweep.planned_runs import PlannedRun, Wanted

_STAGES_OWN = ("seed", "eval.test")


def first_cells(sweep_file: SweepFile | None, arguments: Sequence[str]) -> list[Wanted]:
    """Return the cells that are fixed before any run: all of them, or the trials of a sweep with stages."""
    grids = sweep_file.cells if sweep_file else ()
    if sweep_file is None or sweep_file.stages is None:
        return [Wanted(cell) for cell in expand(grids, arguments)]
    shared = [word for word in arguments if setting_of(word) not in _STAGES_OWN]
    cells = expand(grids, shared)
    names = contestants(cells, sweep_file.tuned)
    seeds = sweep_file.stages.tune.seeds
    return [
        Wanted((*cell, "eval.test=never", f"seed={seed}"), "tune", name)
        for cell, name in zip(cells, names, strict=True)
        for seed in seeds
    ]


def contestants(cells: Sequence[Cell], tuned: Sequence[str]) -> list[str]:
    """Return the contestant of each cell, such as `lora r=8`: its words without tuned settings and shared words."""
    own_words = [[word for word in cell if setting_of(word) not in (*tuned, *_STAGES_OWN)] for cell in cells]
    shared = set.intersection(*map(set, own_words)) if own_words else set()
    own = [[word for word in words if word not in shared] for words in own_words]
    if any(own):
        return [" ".join(map(_short, words)) or "the rest" for words in own]
    method = next((word for word in shared if setting_of(word) == "method"), "the defaults")
    return [_short(method) for _ in cells]


def _short(word: str) -> str:
    return word.removeprefix("method=").removeprefix("method.")


def check_budget(sweep_file: SweepFile, plan: Sequence[PlannedRun]) -> None:
    """Refuse contestants that would be tuned with different numbers of trials.

    Raises:
        ValueError: the numbers differ, or no cell trains; names the numbers and their contestants.
    """
    tried: dict[str, set[str]] = {}
    for planned in plan:
        if planned.experiment.method.trains:
            tried.setdefault(planned.wanted.contestant or "", set()).add(planned.experiment.recipe_id)
    by_number: dict[int, list[str]] = {}
    for contestant, recipes in tried.items():
        by_number.setdefault(len(recipes), []).append(contestant)
    if len(by_number) > 1:
        counts = "; ".join(f"{number}: {', '.join(names)}" for number, names in sorted(by_number.items()))
        raise ValueError(
            f"sweep={sweep_file.name}: tuning is part of a method, so each gets the same number of trials, and here "
            f"they differ ({counts}): give {', '.join(sweep_file.tuned)} as many values in every grid of cells"
        )
    if not tried:
        raise ValueError(
            f"sweep={sweep_file.name}: no cell trains anything, so there is nothing to tune: leave out stages"
        )


def test_word(arguments: Sequence[str]) -> str:
    """Return the `eval.test` setting of the final runs: always, unless the command line has never.

    Raises:
        ValueError: the command line asks that trials read the test data.
    """
    given = [word for word in arguments if setting_of(word) == "eval.test"]
    if any(word.partition("=")[2] not in ("selected", "never") for word in given):
        raise ValueError(
            f"{given[0]}: a sweep with stages chooses on validation and reads the test for what it has chosen: "
            "leave it out, or use eval.test=never"
        )
    return "eval.test=never" if given and given[-1].endswith("=never") else "eval.test=always"


def seed_words(sweep_file: SweepFile, arguments: Sequence[str]) -> list[str]:
    """Return the final seeds as words: those of the command line, else those of the file.

    Raises:
        ValueError: a seed of the command line is also a tuning seed.
    """
    assert sweep_file.stages is not None, "only a sweep with stages has final seeds"
    given = [word for word in arguments if setting_of(word) == "seed"]
    if not given:
        return [f"seed={seed}" for seed in sweep_file.stages.final_seeds]
    numbers = [_number(cell[-1]) for cell in expand((), given)]  # the last word counts, as of any setting
    if reused := reused_seeds(sweep_file.stages, [seed for seed in numbers if isinstance(seed, int)]):
        raise ValueError(f"sweep={sweep_file.name}: {' '.join(given)}: {reused}")
    return [f"seed={seed}" for seed in numbers]


def repeated(cell: Cell, *words: str) -> Cell:
    """Return a trial's cell with `words` in place of its seed and its `eval.test` setting."""
    return (*(word for word in cell if setting_of(word) not in _STAGES_OWN), *words)


def final_cells(plan: Sequence[PlannedRun], choices: Sequence[Choice], test: str, seeds: Sequence[str]) -> list[Wanted]:
    """Return the chosen cells with every seed, and contestants that do not train once. No run is trained twice."""
    trained = {planned.identity[:2] for planned in plan}
    wanted = []
    for planned in untrained(plan):
        cell = repeated(planned.cell, test)
        wanted.append(Wanted(cell, "final", planned.wanted.contestant))
    for choice in choices:
        trial = next(
            (p for p in plan if p.wanted.contestant == choice.contestant and p.identity[0] == choice.recipe_id), None
        )
        for seed in seeds if trial else ():
            assert trial is not None, "no seeds without a trial"
            has_run = (choice.recipe_id, seed_number(seed)) in trained
            once = ("force=false",) if has_run and trial.experiment.force else ()
            wanted.append(Wanted(repeated(trial.cell, test, seed, *once), "final", choice.contestant))
    return wanted


def trained(plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the trials. A cell that does not train has nothing to tune."""
    return [planned for planned in plan if planned.experiment.method.trains]


def untrained(plan: Sequence[PlannedRun]) -> list[PlannedRun]:
    """Return the contestants that do not train, once each."""
    return list({p.wanted.contestant: p for p in plan if not p.experiment.method.trains}.values())


def choose(sweep_file: SweepFile, plan: Sequence[PlannedRun]) -> tuple[Choice, ...]:
    """Choose one recipe for each contestant from the records of its trials."""
    tune = _tune(sweep_file)
    tried = selection.trials([_look(planned) for planned in trained(plan)], tune.settings)
    return tuple(selection.choose(contestant, trials, tune.rule) for contestant, trials in tried.items())


def tuning(
    sweep_file: SweepFile, plan: Sequence[PlannedRun], seeds: Sequence[str], choices: tuple[Choice, ...] | None
) -> Tuning:
    """Return the tuning in the form of the sweep's record."""
    tune = _tune(sweep_file)
    recipes = {(planned.wanted.contestant, planned.identity[0]) for planned in trained(plan)}
    return Tuning(
        rule=tune.rule,
        settings=tune.settings,
        seeds=tune.seeds,
        final_seeds=tuple(map(seed_number, seeds)),
        trials=len(recipes) // max(1, len({contestant for contestant, _ in recipes})),
        choices=choices,
    )


def _tune(sweep_file: SweepFile) -> Tune:
    assert sweep_file.stages is not None, "only a sweep with stages is tuned"
    return sweep_file.stages.tune


def _number(word: str) -> Any:
    """Return the value of a seed's word. Separate streams of random numbers are packed into one number.

    Raises:
        ValueError: the seed cannot be parsed.
    """
    value = OverridesParser.create().parse_override(word).value()
    try:
        return parsed(value)
    except ValueError as error:
        raise ValueError(f"{word}: {error}") from error


def seed_number(word: str) -> int:
    """Return the seed of a word such as `seed=3`."""
    return int(word.partition("=")[2])


def _look(planned: PlannedRun) -> selection.Look:
    experiment = planned.experiment
    heldout = next((e for e in evaluations(experiment) if e.kind == "heldout" and e.role == "validation"), None)
    run_record = state.readable(experiment)
    if heldout is None:
        return selection.Look(cell=planned.written(), run=run_record, validation=None)
    path, validation = record.evaluation_path(experiment.folder, heldout.eval_id), None
    with contextlib.suppress(OSError, ValueError):  # an unreadable validation counts as missing
        validation = record.read(EvaluationRecord, path)
    rows = partial(selection.row_losses, path.with_suffix(".parquet"))
    return selection.Look(cell=planned.written(), run=run_record, validation=validation, rows=rows)


def until_decided(sweep_file: SweepFile, arguments: Sequence[str]) -> UntilDecided | None:
    """Return the rule by which seeds are added; None if the file or the command line fixes their number."""
    assert sweep_file.stages is not None, "only a sweep with stages has final seeds"
    seeds = sweep_file.stages.final.seeds
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
    command = [sys.executable, "-m", "harness.report", "look", experiment.runs_dir, "--sweep", name, "--json"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    try:  # by its document: an error that nothing catches ends Python with the exit code of "undecided"
        document = json.loads(result.stdout)
    except ValueError:
        for line in result.stderr.splitlines():
            board.say(f"  {line}")
        return None
    board.say(f"  {document['answer']}")
    return bool(document["decided"])
