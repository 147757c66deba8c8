"""Runs on a cluster as jobs of a SLURM array, submitted through submitit. They continue without the submitting process.

The records that the jobs write decide about results. SLURM is asked only for waiting and running jobs, and for the end
of jobs that could not record it themselves.
"""

from __future__ import annotations

import contextlib
import importlib.util
import json
import shutil
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

from harness.config import config
from harness.config.experiment import Experiment, canonical
from harness.records import files, record
from harness.records.events import PhaseStarted, Progress
from harness.run import run, state
from harness.run.progress import board, ending
from harness.sweep import messages
from harness.sweep.cluster import queue, submissions
from harness.sweep.cluster.resources import SlurmSpec as SlurmSpec
from harness.sweep.cluster.submissions import Run, Submission, Task, Tasks
from harness.sweep.local import DetachedSweepError, Made
from harness.sweep.planned_runs import PlannedRun

_LOOK_SECONDS = 5.0
_PATIENCE_SECONDS = 30.0  # three heartbeats of a process that SLURM reports as gone
_LAST_SECONDS = 60  # for the other nodes to record the loss of a node, or to end


def check(spec: SlurmSpec, nodes: int = 1) -> None:
    """Check that a job on `nodes` nodes could be submitted.

    Raises:
        ValueError: submitit or SLURM is missing here, or SLURM would reject the job; includes its reason.
    """
    if importlib.util.find_spec("submitit") is None:
        raise ValueError("hydra/launcher=slurm needs submitit: python -m pip install 'harness[slurm]'")
    if shutil.which("sbatch") is None:
        raise ValueError("hydra/launcher=slurm: there is no sbatch here; submit from a machine of the cluster")
    flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in spec.sbatch(nodes).items()]
    if refused := queue.refusal(flags):
        raise ValueError(f"hydra/launcher=slurm: SLURM would not take such a job ({' '.join(flags)}): {refused}")


def launch(pending: Sequence[PlannedRun], name: str, spec: SlurmSpec, words: Sequence[str]) -> list[Made]:
    """Submit the runs that are not in the queue already, and wait for all of them.

    Raises:
        DetachedSweepError: `wait` is false; the runs continue without this process.
        ValueError: a run needs more GPUs or nodes than its job could have; nothing has been submitted.
    """
    _check_gpus(pending, spec)
    runs_dir = Path(pending[0].experiment.runs_dir)
    there = dict(Tasks(runs_dir, name).live(planned.identity[:2] for planned in pending))
    new = [planned for planned in pending if planned.identity[:2] not in there]
    for nodes in {_nodes(planned) for planned in new} - {1}:
        check(spec, nodes)
    jobs = list(_submit(new, name, spec, words)) if new else []
    submitted = f"{len(new)} runs submitted to SLURM" + (f" as {', '.join(jobs)}" if jobs else "")
    board.say(submitted + (f", {len(there)} are in its queue already" if there else ""))
    on = f"--runs {runs_dir} " if runs_dir != Path("runs") else ""
    ways = f"python -m harness.sweep status|collect|cancel {name} {on}".strip()
    if not spec.wait:
        raise DetachedSweepError(f"they go on without this command; look with {ways}")
    try:
        watch(runs_dir, name, {planned.identity[:2] for planned in pending})
    except KeyboardInterrupt:
        board.say(f"the jobs go on: {ways}")
        raise
    return [
        Made(value=run_record.status if (run_record := state.readable(planned.experiment)) else "failed")
        for planned in pending
    ]


def _check_gpus(pending: Sequence[PlannedRun], spec: SlurmSpec) -> None:
    for planned in pending:
        if spec.cells_per_job > 1 and _nodes(planned) > 1:
            raise ValueError(
                f"{' '.join(planned.cell)}: launch.num_nodes={_nodes(planned)} with hydra.launcher.cells_per_job="
                f"{spec.cells_per_job}: a run on several nodes has a job of its own; leave one of the two out"
            )
        launch = planned.experiment.launch
        number = launch.processes_per_node
        if 0 < spec.gpus < number and planned.experiment.method.trains:
            on = "" if launch.num_nodes == 1 else f" on launch.num_nodes={launch.num_nodes}"
            raise ValueError(
                f"{' '.join(planned.cell)}: launch.num_processes={launch.num_processes}{on} needs {number} GPUs on a "
                f"node, and hydra.launcher.gpus={spec.gpus}: give a node {number}"
            )


def _nodes(planned: PlannedRun) -> int:
    """Return the number of nodes of a run; 1 if it only evaluates."""
    return planned.experiment.launch.num_nodes if planned.experiment.method.trains else 1


def _parts(new: Sequence[PlannedRun], cells_per_job: int = 1) -> Iterator[tuple[int, list[PlannedRun]]]:
    """Yield (nodes of each job, runs) of each array. An array is no larger than the cluster allows."""
    most = queue.largest_array() * cells_per_job
    for nodes, alike in groupby(sorted(new, key=_nodes), key=_nodes):
        runs = list(alike)
        yield from ((nodes, runs[first : first + most]) for first in range(0, len(runs), most))


def _submit(new: Sequence[PlannedRun], name: str, spec: SlurmSpec, words: Sequence[str]) -> Iterator[str]:
    """Submit arrays that run in sequence, to share the limit of concurrent jobs. Yield each array's job."""
    from harness.sweep.cluster import job
    from harness.sweep.cluster.executor import Executor

    runs_dir = Path(new[0].experiment.runs_dir)
    before: dict[str, str] = {}
    for nodes, part in _parts(new, spec.cells_per_job):
        executor = Executor(folder=str(submissions.jobs_folder(runs_dir, name)))
        executor.update_parameters(
            job_name=f"harness-{name}",
            array_parallelism=spec.array_parallelism,
            setup=list(spec.setup),
            signal_delay_s=spec.signal_seconds,
            srun_args=[f"--cpus-per-task={spec.cpus}", f"--wait={_LAST_SECONDS}"],  # srun does not inherit the first
            additional_parameters={**spec.sbatch(nodes), **before},
        )
        experiments, per_job = [planned.experiment for planned in part], spec.cells_per_job
        shares = [experiments[first : first + per_job] for first in range(0, len(experiments), per_job)]
        made = executor.map_array(job.make, shares, [spec] * len(shares), [sys.argv] * len(shares))
        array = made[0].job_id.partition("_")[0]
        with contextlib.suppress(OSError):  # setup's lines may hold a secret; SLURM has its own copy by now
            Path(made[0].paths.submission_file).chmod(files.PRIVATE)
        submission = Submission(
            schema=record.SCHEMA,
            job=array,
            submitted_at=datetime.now(UTC).isoformat(timespec="milliseconds"),
            runs=tuple(planned.identity[:2] for planned in part),
            at_once=spec.array_parallelism,
            words=tuple(words),
            cells_per_job=per_job,
        )
        submissions.keep_runs([_settings(experiment) for experiment in experiments], array, runs_dir, name)
        submissions.keep(submission, runs_dir, name)
        before = {"dependency": f"afterany:{array}"}
        yield array


def _settings(experiment: Experiment) -> submissions.Settings:
    values = json.loads(canonical(asdict(experiment)))
    return submissions.Settings(method=experiment.method.name, config=values)


def watch(runs_dir: Path, name: str, runs: set[Run]) -> None:
    """Wait until SLURM has finished these runs, and print how each of them ended."""
    left, gone = set(runs), set[Run]()
    line = board.start_bar(f"{name} on SLURM")
    try:
        while left:
            try:
                tasks = Tasks(runs_dir, name)
            except OSError:  # the controller may restart; jobs continue meanwhile
                time.sleep(_LOOK_SECONDS)
                continue
            live = dict(tasks.live(left))
            over = left - live.keys()
            for run_id in over & gone:  # over in two looks: the file server had time to show the record
                board.say(f"{len(runs) - len(left) + 1}/{len(runs)} {_settled(runs_dir, name, tasks, run_id)}")
                left.remove(run_id)
            gone = over
            waiting = sum(task.queued is not None and task.queued.waits for task in live.values())
            line(PhaseStarted(f"{len(live) - waiting} run, {waiting} wait"))
            line(Progress(len(runs) - len(left), len(runs)))
            if left:
                time.sleep(_LOOK_SECONDS)
    finally:
        line.end()


def _settled(runs_dir: Path, name: str, tasks: Tasks, run_id: Run) -> str:
    """Record how a run ended, if the run did not, and return it as text."""
    task = tasks.of[run_id]
    settle(runs_dir, name, tasks, task)
    try:
        experiment = experiment_of(runs_dir, name, task)
    except ValueError:
        return f"{run_id[0]}/seed-{run_id[1]} (SLURM job {task.job}): over"
    run_record = state.readable(experiment)
    return (
        f"{messages.label(experiment)} (SLURM job {task.job}): {ending(run_record) if run_record else 'left no record'}"
    )


def settle(runs_dir: Path, name: str, tasks: Tasks, task: Task) -> None:
    """Record the end of a finished job that could not record it itself because SLURM ended it."""
    if not tasks.is_told(task):
        try:
            experiment = experiment_of(runs_dir, name, task)
            if not _has_failed_before(experiment, task):
                run.fail(experiment, tasks.ending(task), _PATIENCE_SECONDS)
        except (ValueError, OSError) as error:  # of this job alone
            board.say(f"the end of SLURM job {task.job} cannot be recorded: {error}")
            return
        (tasks.folder / task.settled_file).touch()


def _has_failed_before(experiment: Experiment, task: Task) -> bool:
    """Return whether a run has failed for a reason of its own in a job that went on with its other runs."""
    run_record = state.readable(experiment) if task.submission.cells_per_job > 1 else None
    if run_record is None or run_record.status != "failed" or run_record.current.interrupted:
        return False
    return run_record.current.started_at > task.submission.submitted_at  # both in UTC and of one format


def experiment_of(runs_dir: Path, name: str, task: Task) -> Experiment:
    """Return the experiment that a job was submitted with, from JSON: the pickle that submitit hands over runs code.

    Raises:
        ValueError: its settings are not on disk, or of another version of this program.
    """
    settings = submissions.settings_of(task, runs_dir, name)
    experiment = replace(config.from_settings(settings.method, settings.config), runs_dir=str(runs_dir))
    run_id = (experiment.recipe_id, experiment.run_seed)
    if run_id != task.run:
        raise ValueError(f"job {task.job}: its settings are not those of its run; one may have held a secret")
    return experiment
