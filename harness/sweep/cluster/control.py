"""Commands for runs that were left to a cluster: collect their results, cancel them, or submit them again."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path

from harness.config import permissions
from harness.config.sweep_file import setting_of
from harness.records.untrusted import echo
from harness.sweep.cluster import queue, slurm, submissions
from harness.sweep.cluster.submissions import Tasks
from harness.sweep.status import Stored, lines, refuse_removed, standing, words_again
from harness.sweep.sweep import make_report

_PATIENCE_SECONDS = 120.0  # for canceled jobs to save their state and leave the queue
_LOOK_SECONDS = 1.0


def tasks_of(stored: Stored) -> Tasks:
    """Return the SLURM state of a sweep's jobs.

    Raises:
        ValueError: the sweep was never submitted.
        OSError: SLURM cannot be asked.
    """
    tasks = Tasks(stored.runs_dir, stored.record.name)
    if not tasks.submissions:
        raise ValueError(
            f"sweep {stored.record.name}: nothing of it was submitted to a cluster; for its report: python -m "
            f"harness.report {stored.runs_dir} --sweep {stored.record.name}"
        )
    return tasks


def collect(stored: Stored, wait: bool) -> int:
    """Record the runs that SLURM ended, write the report of the finished ones, and return the exit code.

    The code is 0 if every run of the sweep ended well, else 1. Trials alone make no report, since the report is about
    the chosen recipes.
    """
    name, tasks = stored.record.name, tasks_of(stored)
    if wait:
        slurm.watch(stored.runs_dir, name, {run for run, _ in tasks.live()})
        tasks = tasks_of(stored)
    _settle(stored, tasks)
    runs = standing(stored, tasks)
    echo("\n".join(lines(stored, runs, tasks)))
    tuning = stored.record.tuning
    if tuning is not None and tuning.choices is None:
        if not any(run.state in ("running", "waiting") for run in runs):
            on = f" --runs {stored.runs_dir}" if stored.runs_dir != Path("runs") else ""
            echo(f"the trials are over: python -m harness.sweep submit {name}{on} chooses, and submits what it chose")
        return 1
    make_report(slurm.experiment_of(stored.runs_dir, name, next(iter(tasks.of.values()))), name)
    return 0 if all(run.ended_well for run in runs) else 1


def cancel(stored: Stored) -> int:
    """Cancel waiting and running jobs, let each run save its state, and return the exit code 0."""
    tasks = tasks_of(stored)
    live = dict(tasks.live())
    if live:
        queue.cancel({task.submission.job for task in live.values()})
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while any(tasks.live(live)) and time.monotonic() < deadline:
        time.sleep(_LOOK_SECONDS)
        tasks = tasks_of(stored)
    _settle(stored, tasks)
    echo(f"{len(live)} runs canceled; what is finished is kept, and submit goes on from there")
    return 0


def _settle(stored: Stored, tasks: Tasks) -> None:
    for task in tasks.of.values():
        if task.queued is None:
            slurm.settle(stored.runs_dir, stored.record.name, tasks, task)


def submission_words(name: str, stored: Stored | None, given: Sequence[str]) -> list[str]:
    """Return the main command's words that submit a sweep: a new one by its name, or a `stored` one again.

    Launcher settings of the last submission are repeated, unless `given` replaces them.

    Raises:
        ValueError: a setting held a secret, which is not kept.
    """
    before: tuple[str, ...] = ()
    ours = [word for word in given if not word.startswith("hydra.")]
    if stored is None:
        words = [f"sweep={name}", *ours]
    else:
        words = words_again(stored, *ours, given_again=given)
        earlier = submissions.read(stored.runs_dir, name)
        before = earlier[-1].words if earlier else ()
    of_hydra = {setting_of(word): word for word in (*before, *given) if word.startswith("hydra.")}
    of_hydra["hydra.launcher.wait"] = "hydra.launcher.wait=false"
    refuse_removed(name, of_hydra.values())
    permissions.refuse_repeated(name, before, given)
    return [*words, "hydra/launcher=slurm", *of_hydra.values()]
