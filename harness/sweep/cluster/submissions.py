"""Submissions of a sweep to SLURM, stored in `runs/sweeps/<name>/slurm/<job>.json`, and the state of their jobs."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field

from harness.records import record
from harness.records.base import Strict
from harness.records.files import FileName
from harness.sweep.cluster import queue
from harness.sweep.cluster.queue import Queued

Run = tuple[FileName, int]  # recipe and seed


@dataclass(frozen=True, kw_only=True)
class Submission(Strict):
    """Submitted job, or array of jobs. `runs` are (recipe_id, seed), `cells_per_job` of them for each task in turn."""

    schema: int
    job: Annotated[str, Field(pattern=r"^[0-9]+$")]
    submitted_at: str  # ISO 8601, UTC
    runs: tuple[Run, ...]
    at_once: int  # tasks that may run at once
    words: tuple[str, ...]  # the command line's words for the launcher
    cells_per_job: Annotated[int, Field(ge=1)] = 1

    def tasks(self) -> list[tuple[str, Run]]:
        """Return (SLURM's job name, run) of each run. A submission of one task is no array."""
        if len(self.runs) <= self.cells_per_job:
            return [(self.job, run) for run in self.runs]
        return [(f"{self.job}_{number // self.cells_per_job}", run) for number, run in enumerate(self.runs)]


def folder(runs_dir: Path, name: str) -> Path:
    """Return the folder of a sweep's submissions and of the output of its jobs."""
    return runs_dir / "sweeps" / name / "slurm"


def jobs_folder(runs_dir: Path, name: str) -> Path:
    """Return the folder of submitit's files and of the output of the jobs."""
    return folder(runs_dir, name) / "jobs"


def keep(submission: Submission, runs_dir: Path, name: str) -> None:
    """Write a submission to its file."""
    record.write(submission, folder(runs_dir, name) / f"{submission.job}.json")


def read(runs_dir: Path, name: str) -> list[Submission]:
    """Return the submissions of a sweep, the oldest first; [] if it was never submitted."""
    submissions = [record.read(Submission, path) for path in folder(runs_dir, name).glob("*.json")]
    return sorted(submissions, key=lambda submission: (submission.submitted_at, submission.job))


@dataclass(frozen=True, kw_only=True)
class Settings(Strict):
    """A submitted run, as its record will hold it."""

    method: str
    config: dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Handed(Strict):
    """Runs of a submission, in its order, in `jobs/<job>_runs.json`: read where SLURM ended one."""

    schema: int
    runs: tuple[Settings, ...]


def keep_runs(runs: Sequence[Settings], job: str, runs_dir: Path, name: str) -> None:
    """Write the settings of a submission's runs."""
    record.write(Handed(schema=record.SCHEMA, runs=tuple(runs)), _runs_file(job, runs_dir, name))


def settings_of(task: Task, runs_dir: Path, name: str) -> Settings:
    """Return the settings of a task's run.

    Raises:
        ValueError: they are not there, as for jobs of an earlier version, or damaged.
    """
    path = _runs_file(task.submission.job, runs_dir, name)
    try:
        handed = record.read(Handed, path)
        return handed.runs[task.submission.runs.index(task.run)]
    except FileNotFoundError as error:
        raise ValueError(f"{path}: not there; run the sweep's own command again") from error
    except LookupError as error:
        raise ValueError(f"{path}: holds no run for job {task.job}") from error


def _runs_file(job: str, runs_dir: Path, name: str) -> Path:
    return jobs_folder(runs_dir, name) / f"{job}_runs.json"


@dataclass(frozen=True)
class Task:
    """Newest job of a run, with its SLURM state. `queued` is None once the job is over."""

    job: str
    run: Run
    submission: Submission
    queued: Queued | None

    @property
    def settled_file(self) -> str:
        """Return the name of the file that says that the run's end was recorded on behalf of its job."""
        own = f".{self.run[0]}-seed-{self.run[1]}" if self.submission.cells_per_job > 1 else ""
        return f"{self.job}{own}.settled"


class Tasks:
    """Snapshot of the SLURM state of a sweep's runs.

    Raises:
        OSError: SLURM cannot be asked.
        ValueError: a submission cannot be read.
    """

    def __init__(self, runs_dir: Path, name: str) -> None:
        self.submissions = read(runs_dir, name)
        self.folder = jobs_folder(runs_dir, name)
        self._ended: dict[str, dict[str, str]] = {}
        waiting = queue.queued(submission.job for submission in self.submissions)
        self.of: dict[Run, Task] = {}
        for submission in self.submissions:
            for job, run in submission.tasks():
                task, before = Task(job, run, submission, waiting.get(job)), self.of.get(run)
                # clocks of the machines that submit may disagree; a run is in the queue once, by its newest job
                if before is None or before.queued is None or task.queued is not None:
                    self.of[run] = task

    def live(self, runs: Iterable[Run] | None = None) -> Iterator[tuple[Run, Task]]:
        """Yield the unfinished tasks of these runs, or of all."""
        for run in self.of if runs is None else runs:
            task = self.of.get(run)
            if task is not None and task.queued is not None:
                yield run, task

    def is_told(self, task: Task) -> bool:
        """Return True if the end of a task is recorded, by the task itself or on its behalf."""
        return any((self.folder / name).exists() for name in (f"{task.job}_0_result.pkl", task.settled_file))

    def ending(self, task: Task) -> str:
        """Return how a finished task ended, according to SLURM."""
        array = task.submission.job
        if array not in self._ended:
            self._ended[array] = queue.endings(array)
        ending = self._ended[array].get(task.job, "it left the queue, and SLURM has forgotten how")
        return f"SLURM job {task.job}: {ending}"
