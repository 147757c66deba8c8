"""A sweep from beginning to end: cells, checks, runs, report. Each step is one function below.

Nothing is started before every cell has been checked: what can be known beforehand is said beforehand.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import config
from harness.config.cells import Cell
from harness.config.composer import Composer
from harness.config.experiment import Experiment
from harness.config.question import Question, UntilDecided
from harness.records.record import Choice, RunRecord
from harness.run import run, sources
from harness.run.isolate import Share, Stop
from harness.run.ladder import instead
from harness.run.progress import board, ending
from harness.sweep import announce, concurrent, local, looks, stages
from harness.sweep.checks import check, check_cache, check_nodes, check_writable
from harness.sweep.local import LeftError
from harness.sweep.planned import Compose, Planned, Wanted, bases_of, compose_all, resolve, undone
from harness.sweep.tracking import Tracker
from harness.sweep.written import Written, write_question

Launch = Callable[[list[Planned], str], Sequence[Any]]  # with the sweep's name

_tracker: Tracker | None = None
_labels: dict[tuple[str, int], str] = {}  # what tells the runs under way from one another


@dataclass(frozen=True)
class _FinalStage:
    """What the final stage of a tuned sweep is made of."""

    asked: Question
    plan: Sequence[Planned]
    trials: Sequence[Planned]
    started: Sequence[Planned]
    choices: tuple[Choice, ...]
    bases: Sequence[Wanted]
    test: str
    seeds: Sequence[str]
    rule: UntilDecided | None


def execute(master: Any, arguments: list[str], compose: Compose, launch: Launch, runs_come_alone: bool = False) -> int:
    """Run a sweep.

    Args:
        master: the configuration as composed without what is swept.
        arguments: the command line's overrides.
        compose: a cell's overrides -> its configuration.
        launch: hands what is to be run to Hydra's launcher and waits for it.
        runs_come_alone: whether that launcher makes one run after another on this machine, as Hydra's own does.

    Returns:
        The exit code: 0 when every run is ok or skipped, else 1. A trial that diverged is a result of tuning. 0 as
        well when the runs were left to a cluster.

    Raises:
        ValueError: something that was asked for is wrong; nothing has been started.
    """
    sweep = _Sweep(config.sweep_of(master), tuple(arguments), Composer(compose), launch, runs_come_alone)
    try:
        return sweep.in_stages(sweep.asked) if sweep.asked and sweep.asked.stages else sweep.at_once()
    except LeftError as left:
        board.say(str(left))
        return 0


@dataclass(frozen=True)
class _Sweep:
    """What was asked for, and how cells are composed and launched."""

    asked: Question | None
    arguments: tuple[str, ...]
    compose: Composer
    launch: Launch
    runs_come_alone: bool

    def at_once(self) -> int:
        """Run every cell."""
        wanted = stages.first_cells(self.asked, self.arguments)
        composed = compose_all(wanted, self.compose, bases_of(wanted))
        concurrent.check_no_trials(composed)
        plan = _identified(composed)
        pending = _checked(plan)
        name = write_question(Written(self.asked, self.arguments, plan, _runs(pending)))
        announce.runs(plan, pending)
        work(pending, name, self.launch)
        make_report(plan[0].experiment, name)
        return 0 if _ended_well(plan) else 1

    def in_stages(self, asked: Question) -> int:
        """Run the trials, choose on validation, run what was chosen."""
        test = stages.test_word(self.arguments)
        seeds = stages.seed_words(asked, self.arguments)
        wanted = stages.first_cells(asked, self.arguments)
        composed = compose_all(wanted, self.compose)
        stages.check_budget(asked, composed)
        compose_all([Wanted(stages.repeated(wanted[0].cell, test, seed)) for seed in seeds], self.compose)
        plan = _identified(composed)
        trials = stages.trained(plan)
        bases = bases_of([Wanted(stages.repeated(one.cell, test), "final") for one in wanted])
        started = _checked(trials)
        launch_trials = self.launch_of(trials, started)
        tuning = stages.tuning(asked, plan, seeds, None)
        rule = looks.until_decided(asked, self.arguments)
        if started:
            write_question(Written(asked, self.arguments, trials, _runs(started), tuning))
        announce.plan(asked, trials, started, tuning)
        looks.announce(rule)
        work(started, asked.name, launch_trials)
        choices = stages.choose(asked, plan)
        announce.choices(asked, trials, choices)
        stage = _FinalStage(asked, plan, trials, started, choices, bases, test, seeds, rule)
        final, looked = self._final(stage)
        make_report(final[0].experiment, asked.name)
        chosen = looked and all(choice.recipe_id for choice in choices)
        return 0 if chosen and _ended_well(final) and _ended_well(trials, also=("diverged",)) else 1

    def launch_of(self, trials: Sequence[Planned], started: Sequence[Planned]) -> Launch:
        """Return what makes the trials: several at once where Hydra's own launcher would make them alone.

        Raises:
            ValueError: max_concurrent_trials does not fit the launcher or the machine.
        """
        limit = trials[0].experiment.max_concurrent_trials
        if not self.runs_come_alone:
            if limit is not None:
                raise ValueError(
                    f"max_concurrent_trials={limit} is for runs on this machine without a launcher: leave it out, or "
                    "use hydra.launcher.n_jobs (local) or hydra.launcher.array_parallelism (slurm)"
                )
            return self.launch
        parts = concurrent.shares(trials, started) if started else []
        if len(parts) < 2:
            return self.launch
        board.say(concurrent.announcement(parts))
        return lambda pending, name: _trials(pending, parts)

    def _final(self, stage: _FinalStage) -> tuple[list[Planned], bool]:
        """Run what was chosen, with all seeds or until it is decided; (the runs, False if a look failed)."""
        asked, started = stage.asked, [*stage.started]
        final: list[Planned] = []
        decided: bool | None = False
        for taken in looks.rounds(stage.rule, stage.seeds):
            seeds = stage.seeds[:taken]
            wanted = stages.final_cells(stage.plan, stage.choices, stage.test, seeds)
            final = _identified(compose_all(wanted, self.compose, stage.bases))
            pending = _checked(final)
            started += pending
            tuning = looks.recorded(stages.tuning(asked, stage.plan, seeds, stage.choices), stage.rule, stage.choices)
            write_question(Written(asked, self.arguments, [*stage.trials, *final], _runs(started), tuning))
            announce.runs(final, pending)
            work(pending, asked.name, self.launch)
            if stage.rule is not None:
                decided = looks.decided(final[0].experiment, asked.name)
            if decided is not False:
                break
        return final, decided is not None


def _identified(plan: list[Planned]) -> list[Planned]:
    """The plan with contents; before that, whether results, and what is fetched for them, can be written."""
    experiment = plan[0].experiment
    check_nodes(plan)
    check_cache()
    check_writable(Path(experiment.runs_dir), Path(experiment.reports_dir))
    return resolve(plan)


def _checked(plan: list[Planned]) -> list[Planned]:
    """What is to be run: the rest is done, or cannot be run here."""
    pending = undone(plan)
    return check(pending, Path(pending[0].experiment.runs_dir)) if pending else []


def _runs(plan: Sequence[Planned]) -> set[tuple[str, int]]:
    return {planned.identity[:2] for planned in plan}


def _ended_well(plan: Sequence[Planned], also: tuple[str, ...] = ()) -> bool:
    return all(_status(planned) in ("ok", "skipped", *also) for planned in plan)


def work(pending: Sequence[Planned], name: str, launch: Launch) -> None:
    """Launch the cells, with the mirror open as long as they run."""
    global _tracker, _labels
    if not pending:
        return
    _labels = announce.labels(pending)
    experiment = pending[0].experiment
    board.expect(len(pending))
    _tracker = Tracker(experiment.tracking, Path(experiment.runs_dir), name)
    try:
        results = launch(list(pending), name)
    finally:
        _tracker.close()
        _tracker = None
    for planned, result in zip(pending, results, strict=True):
        _tell_failure(planned.cell, result)


def _tell_failure(cell: Cell, result: Any) -> None:
    """Say why a run has no record: the launcher keeps to itself what a job raised, so that the others go on."""
    try:
        result.return_value  # noqa: B018 - raises what the job raised
    except Exception as error:  # whatever it is, it has cost one run and not the sweep
        board.say(f"error: {' '.join(cell)}: {type(error).__name__}: {config.readable(error)}")


def run_cell(experiment: Experiment) -> str:
    """Make one run, in whatever process a launcher calls this; returns its status."""
    experiment = sources.resolve(experiment, board.say)
    tracker = _tracker or Tracker(experiment.tracking, Path(experiment.runs_dir), None)
    line = board.begin(_label(experiment))

    def watch(event: dict[str, Any]) -> None:
        line(event)
        tracker.event(experiment, event)

    tracker.begin(experiment)
    try:
        result = run.run(experiment, watch)
    except BaseException:
        line.end("interrupted")
        raise
    line.end(ending(result))
    tracker.end(experiment, result)
    if tracker is not _tracker:
        tracker.close()
    other = instead(experiment) if result.status == "oom" else None
    if other is not None:
        board.say(f"{experiment.method.name}: it did not fit; beside it, with its base in 4 bits: {other.folder}")
        run_cell(other)
    return result.status


def run_alone(experiment: Experiment) -> RunRecord:
    """Check one experiment as a sweep checks its cells, make its run unless it is done, and return its record.

    Raises:
        ValueError: the experiment does not fit the model, the data or the machine; nothing has been started.
    """
    [planned] = _identified([Planned(Wanted(()), experiment)])
    if _checked([planned]):
        run_cell(planned.experiment)
    record = run.read(planned.experiment)
    assert record is not None, "a run that was made or skipped has a record"
    return record


def at_once(pending: Sequence[Planned], parts: Sequence[Share]) -> list[local.Made]:
    """Make runs on this machine, as many at once as it has parts.

    Raises:
        ValueError: a run wants more devices than its part has; nothing has been started.
    """
    several = [p for p in pending if p.experiment.launch.num_processes > 1 and parts[0].environment]
    if several:
        raise ValueError(
            f"{' '.join(several[0].cell)}: hydra/launcher=local gives each run one GPU, and launch.num_processes="
            f"{several[0].experiment.launch.num_processes} trains on as many: leave one of the two out"
        )
    return local.at_once([partial(run_cell, planned.experiment) for planned in pending], parts, board.say)


def _trials(pending: Sequence[Planned], parts: Sequence[Share]) -> list[local.Made]:
    """Make trials at once; one that ran out of memory, or failed, beside others says nothing: it is made again alone.

    A trial whose memory other processes hold fails as by a fault of the machine.
    """
    results = at_once(pending, parts)
    short = [position for position, planned in enumerate(pending) if _status(planned) in ("oom", "failed")]
    if short:
        board.say(f"trials without a result beside others: {len(short)}; made again, one after another")
        again = [concurrent.again(pending[position]) for position in short]
        alone = replace(parts[0], runs=1, stop=Stop())
        for position, result in zip(short, at_once(again, [alone]), strict=True):
            results[position] = result
    return results


def make_report(experiment: Experiment, name: str) -> None:
    """Make the report in a process of its own: figures need libraries that this process does without."""
    command = [sys.executable, "-m", "harness.report", experiment.runs_dir, "--sweep", name, "--terminal"]
    command += ["--reports-dir", experiment.reports_dir]
    tracking = experiment.tracking
    if tracking.name == "wandb":
        command += ["--wandb", tracking.mode, "--wandb-project", tracking.project]
        command += ["--wandb-entity", tracking.entity] if tracking.entity else []
    if tracking.name == "tensorboard":
        command += ["--tensorboard", str(Path(experiment.runs_dir) / "tensorboard")]
    subprocess.run(command, check=False)


def _status(planned: Planned) -> str | None:
    known = run.read(planned.experiment)
    return known.status if known else None


def _label(experiment: Experiment) -> str:
    return _labels.get((experiment.recipe_id, experiment.run_seed)) or announce.label(experiment)
