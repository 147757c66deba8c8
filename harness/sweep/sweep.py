"""Execution of a sweep: cells, checks, runs, report. Each step is one function below.

No run starts before every cell has been checked, so that errors are reported as early as possible.
"""

from __future__ import annotations

import contextlib
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from harness.config import config
from harness.config.compose import Composer
from harness.config.experiment import Experiment
from harness.config.overrides import Cell
from harness.config.sweep_file import SweepFile, UntilDecided
from harness.records.events import Event
from harness.records.record import Choice, RunRecord
from harness.run import inputs, lock, run, state
from harness.run.isolate import Share, Stop
from harness.run.outcome import instead
from harness.run.progress import board, ending
from harness.sweep import concurrent, local, messages, stages
from harness.sweep.checks import check, check_cache, check_nodes, check_writable
from harness.sweep.local import DetachedSweepError
from harness.sweep.planned_runs import Compose, PlannedRun, Wanted, bases_of, compose_all, resolve, undone
from harness.sweep.sweep_records import Written, has_further_seeds, has_looks_at, write_look, write_question
from harness.sweep.tracking import Tracker

Launch = Callable[[list[PlannedRun], str], Sequence[Any]]  # with the sweep's name

_tracker: Tracker | None = None
_labels: dict[tuple[str, int], str] = {}  # names of the runs in progress, by recipe and seed


@dataclass(frozen=True)
class _FinalStage:
    """Input of the final stage of a tuned sweep."""

    sweep_file: SweepFile
    plan: Sequence[PlannedRun]
    trials: Sequence[PlannedRun]
    started: Sequence[PlannedRun]
    choices: tuple[Choice, ...]
    bases: Sequence[Wanted]
    test: str
    seeds: Sequence[str]
    rule: UntilDecided | None


def execute(master: Any, arguments: list[str], compose: Compose, launch: Launch, runs_come_alone: bool = False) -> int:
    """Run a sweep.

    Args:
        master: the configuration, composed without the swept settings.
        arguments: the command line's overrides.
        compose: a cell's overrides -> its configuration.
        launch: passes the pending runs to Hydra's launcher and waits for them.
        runs_come_alone: True if that launcher runs sequentially on this machine, as Hydra's own does.

    Returns:
        The exit code: 0 if every run is ok or skipped, else 1. A diverged trial is a result of tuning. The code is also
        0 if the runs were left to a cluster.

    Raises:
        ValueError: a setting is wrong; nothing has been started.
    """
    sweep = _Sweep(config.sweep_of(master), tuple(arguments), Composer(compose), launch, runs_come_alone)
    try:
        return sweep.in_stages(sweep.sweep_file) if sweep.sweep_file and sweep.sweep_file.stages else sweep.at_once()
    except DetachedSweepError as left:
        board.say(str(left))
        return 0


@dataclass(frozen=True)
class _Sweep:
    """Requested sweep, and the functions that compose and launch its cells."""

    sweep_file: SweepFile | None
    arguments: tuple[str, ...]
    compose: Composer
    launch: Launch
    runs_come_alone: bool

    def at_once(self) -> int:
        """Run every cell."""
        wanted = stages.first_cells(self.sweep_file, self.arguments)
        composed = compose_all(wanted, self.compose, bases_of(wanted))
        concurrent.check_no_trials(composed)
        plan = _grouped(_identified(composed), self.sweep_file)
        pending = _checked(plan)
        name = write_question(Written(self.sweep_file, self.arguments, plan, _runs(pending)))
        messages.runs(plan, pending)
        all_came = work(pending, name, self.launch)
        make_report(plan[0].experiment, name)
        return 0 if all_came and _ended_well(plan) else 1

    def in_stages(self, sweep_file: SweepFile) -> int:
        """Run the trials, choose on validation data, run the chosen recipes."""
        test = stages.test_word(self.arguments)
        seeds = stages.seed_words(sweep_file, self.arguments)
        wanted = stages.first_cells(sweep_file, self.arguments)
        composed = compose_all(wanted, self.compose)
        stages.check_budget(sweep_file, composed)
        compose_all([Wanted(stages.repeated(wanted[0].cell, test, seed)) for seed in seeds], self.compose)
        plan = _grouped(_identified(composed), sweep_file)
        trials = stages.trained(plan)
        bases = bases_of([Wanted(stages.repeated(request.cell, test), "final") for request in wanted])
        started = _checked(trials)
        launch_trials = self.launch_of(trials, started)
        tuning = stages.tuning(sweep_file, plan, seeds, None)
        rule = stages.until_decided(sweep_file, self.arguments)
        if started and not (rule and has_looks_at(trials, sweep_file.name)):
            write_question(Written(sweep_file, self.arguments, trials, _runs(started), tuning))
        messages.plan(sweep_file, trials, started, tuning)
        stages.announce(rule)
        all_came = work(started, sweep_file.name, launch_trials)
        choices = stages.choose(sweep_file, plan)
        messages.choices(sweep_file, trials, choices)
        stage = _FinalStage(sweep_file, plan, trials, started, choices, bases, test, seeds, rule)
        final, looked = self._final(stage)
        make_report(final[0].experiment, sweep_file.name)
        chosen = looked and all(choice.recipe_id for choice in choices)
        return 0 if all_came and chosen and _ended_well(final) and _ended_well(trials, also=("diverged",)) else 1

    def launch_of(self, trials: Sequence[PlannedRun], started: Sequence[PlannedRun]) -> Launch:
        """Return the launcher of the trials. It runs several at once where Hydra's own launcher would run one.

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

    def _final(self, stage: _FinalStage) -> tuple[list[PlannedRun], bool]:
        """Run the chosen recipes with all seeds or until every comparison is decided.

        Looks that the sweep's record has behind it are not repeated: it never loses seeds that were run.

        Returns:
            The runs, and False if a look failed.
        """
        sweep_file, started = stage.sweep_file, [*stage.started]
        final: list[PlannedRun] = []
        decided: bool | None = False
        name = sweep_file.name
        for taken in stages.rounds(stage.rule, stage.seeds):
            seeds = stage.seeds[:taken]
            tuning = stages.recorded(
                stages.tuning(sweep_file, stage.plan, seeds, stage.choices), stage.rule, stage.choices
            )
            if has_further_seeds(stage.plan, name, tuning):
                board.say(f"  {taken} seeds: an earlier look decided nothing")
                continue
            wanted = stages.final_cells(stage.plan, stage.choices, stage.test, seeds)
            final = _grouped(_identified(compose_all(wanted, self.compose, stage.bases)), sweep_file)
            pending = _checked(final)
            started += pending
            if not write_look(Written(sweep_file, self.arguments, [*stage.trials, *final], _runs(started), tuning)):
                continue
            messages.runs(final, pending)
            if not work(pending, name, self.launch):
                decided = None
                break
            if stage.rule is not None:
                decided = stages.decided(final[0].experiment, name)
                if has_further_seeds(stage.plan, name, tuning):  # of another worker, and this look was at those
                    decided = False
            if decided is not False:
                break
        return final, decided is not None


def _identified(plan: list[PlannedRun]) -> list[PlannedRun]:
    """Check that results and downloads can be written, then return the plan identified by content.

    Raises:
        ValueError: a folder cannot be written, or a model or data cannot be obtained.
    """
    experiment = plan[0].experiment
    check_nodes(plan)
    check_cache()
    check_writable(Path(experiment.runs_dir), Path(experiment.reports_dir))
    return resolve(plan)


def _grouped(plan: list[PlannedRun], sweep_file: SweepFile | None) -> list[PlannedRun]:
    """Return the runs with the group under which a tracker shows them, unless the user named one."""
    group = sweep_file.name if sweep_file else messages.title(plan)
    return [
        replace(cell, experiment=replace(cell.experiment, tracking=replace(tracking, group=tracking.group or group)))
        for cell in plan
        if (tracking := cell.experiment.tracking)
    ]


def _checked(plan: list[PlannedRun]) -> list[PlannedRun]:
    """Return the runs to start. The others are finished or cannot run here."""
    pending = undone(plan)
    return check(pending, Path(pending[0].experiment.runs_dir)) if pending else []


def _runs(plan: Sequence[PlannedRun]) -> set[tuple[str, int]]:
    return {planned.identity[:2] for planned in plan}


def _ended_well(plan: Sequence[PlannedRun], also: tuple[str, ...] = ()) -> bool:
    return all(_status(planned) in ("ok", "skipped", *also) for planned in plan)


def work(pending: Sequence[PlannedRun], name: str, launch: Launch) -> bool:
    """Launch the cells and keep the tracking process open while they run; return False if an error ended one."""
    global _tracker, _labels
    if not pending:
        return True
    _labels = messages.labels(pending)
    experiment = pending[0].experiment
    board.expect(len(pending))
    _tracker = Tracker(experiment.tracking, Path(experiment.runs_dir))
    try:
        results = launch(list(pending), name)
    finally:
        _tracker.close()
        _tracker = None
    failed = [_tell_failure(planned.cell, result) for planned, result in zip(pending, results, strict=True)]
    return not any(failed)


def _tell_failure(cell: Cell, result: Any) -> bool:
    """Print why a run has no record, and return True if so.

    The launcher holds the error of a job back so that the others continue.
    """
    try:
        result.return_value  # noqa: B018 - raises what the job raised
    except Exception as error:  # any error ends one run and not the sweep
        board.say(f"error: {' '.join(cell)}: {type(error).__name__}: {config.readable(error)}")
        return True
    return False


def run_cell(experiment: Experiment) -> str:
    """Execute one run in the process in which a launcher calls this, and return its status.

    Raises:
        ValueError: the model or the data are no longer what was planned: it would be another run.
    """
    experiment = _as_planned(experiment)
    tracker = _tracker or Tracker(experiment.tracking, Path(experiment.runs_dir))
    line = board.begin(_label(experiment), experiment.method.trains)

    def watch(event: Event) -> None:
        line(event)
        tracker.event(experiment, event)

    with contextlib.nullcontext() if tracker is _tracker else contextlib.closing(tracker):
        tracker.begin(experiment)
        try:
            result = run.run(experiment, watch)
        except (KeyboardInterrupt, SystemExit):
            line.end("interrupted")
            raise
        except BaseException:  # the launcher's caller prints the reason
            line.end("not recorded")
            raise
        line.end(ending(result))
        tracker.end(experiment, result)
    other = instead(experiment) if result.status == "oom" else None
    if other is not None:
        board.say(f"{experiment.method.name}: it did not fit; beside it, with its base in 4 bits: {other.folder}")
        run_cell(other)
    return result.status


def _as_planned(experiment: Experiment) -> Experiment:
    here = inputs.resolve(experiment, board.say)
    for name, planned, now in (("model", experiment.model, here.model), ("data", experiment.data, here.data)):
        if planned.content not in (None, now.content):
            raise ValueError(
                f"{name}={planned.name}: its files have changed since the run was planned, and it would be another "
                "run; give the same command again"
            )
    return here


def run_alone(experiment: Experiment) -> RunRecord:
    """Check one experiment as a cell of a sweep, execute its run unless it is finished, and return its record.

    Raises:
        ValueError: the experiment does not fit the model, the data or the machine; nothing has been started.
    """
    [planned] = _identified([PlannedRun(Wanted(()), experiment)])
    if _checked([planned]):
        run_cell(planned.experiment)
    record = state.read(planned.experiment)
    assert record is not None, "a run that was made or skipped has a record"
    return record


def at_once(pending: Sequence[PlannedRun], parts: Sequence[Share]) -> list[local.Made]:
    """Execute runs on this machine, as many at once as there are parts.

    Raises:
        ValueError: a run needs more devices than its part has; nothing has been started.
    """
    several = [p for p in pending if p.experiment.launch.num_processes > 1 and parts[0].environment]
    if several:
        raise ValueError(
            f"{' '.join(several[0].cell)}: hydra/launcher=local gives each run one GPU, and launch.num_processes="
            f"{several[0].experiment.launch.num_processes} trains on as many: leave one of the two out"
        )
    return local.at_once([partial(run_cell, planned.experiment) for planned in pending], parts, board.say)


def _trials(pending: Sequence[PlannedRun], parts: Sequence[Share]) -> list[local.Made]:
    """Execute trials concurrently, then retry those that ran out of memory or failed, one after another.

    Such an end is no result, since the trials share the memory of the machine. A trial that lacks memory because other
    processes hold it is recorded as failed.
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
    """Write the report in a separate process, since figures need libraries that this process does not load.

    Workers of one sweep write it one after another: whoever comes later finds it there.
    """
    command = [sys.executable, "-m", "harness.report", experiment.runs_dir, "--sweep", name, "--terminal"]
    command += ["--reports-dir", experiment.reports_dir]
    tracking = experiment.tracking
    if tracking.name == "wandb":
        command += ["--wandb", tracking.mode, "--wandb-project", tracking.project]
        command += ["--wandb-entity", tracking.entity] if tracking.entity else []
        command += ["--wandb-group", tracking.group] if tracking.group else []
    if tracking.name == "tensorboard":
        command += ["--tensorboard", str(Path(experiment.runs_dir) / "tensorboard")]
    taken = Path(experiment.runs_dir) / "sweeps" / name / "taken"
    with lock.hold(taken / "report") if taken.is_dir() else contextlib.nullcontext():
        subprocess.run(command, check=False)


def _status(planned: PlannedRun) -> str | None:
    run_record = state.readable(planned.experiment)
    return run_record.status if run_record else None


def _label(experiment: Experiment) -> str:
    return _labels.get((experiment.recipe_id, experiment.run_seed)) or messages.label(experiment)
