"""Status of each run of a sweep, and of the sweep as lines: counts by stage, reasons, and the expected end."""

from __future__ import annotations

import contextlib
import shlex
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from statistics import mean
from typing import Any

from harness.config import permissions
from harness.config.sweep_file import setting_of
from harness.records import record, redact, selection
from harness.records.record import Cell, EvaluationRecord, RunRecord, SweepRecord
from harness.run import lock
from harness.sweep.cluster.submissions import Tasks

FAILURES = ("failed", "oom", "diverged")
_ORDER = ("ok", "skipped", "running", "waiting", "lacks evaluations", "interrupted", *FAILURES)
_ENOUGH = 200  # finished runs whose mean time predicts that of the others
_TOLD_EACH = ("running", "skipped", "interrupted", *FAILURES)


@dataclass(frozen=True)
class Stands:
    """Status of one run of a sweep."""

    cell: Cell
    state: str
    reason: str

    @property
    def ended_well(self) -> bool:
        """Return True if the run needs no further work. A diverged trial is a result of tuning."""
        return self.state in ("ok", "skipped") or (self.state == "diverged" and self.cell.stage == "tune")


def standing(stored: Stored, tasks: Tasks | None = None) -> list[Stands]:
    """Return the status of each run of each stage. `tasks` holds the SLURM state of a submitted sweep."""
    cells = {(cell.stage, cell.recipe_id, cell.seed): cell for cell in stored.record.cells}
    return [Stands(cell, *stored.status(cell, tasks)) for cell in cells.values()]


def is_over(stored: Stored, runs: Sequence[Stands]) -> bool:
    """Return whether no run of a sweep is left to be made: none runs, waits or was interrupted."""
    tuning = stored.record.tuning
    if tuning is not None and (tuning.choices is None or tuning.looks is not None):
        return False  # what comes after the trials, or after a look, is known to the sweep alone
    return not any(run.state in ("running", "waiting", "lacks evaluations", "interrupted") for run in runs)


def lines(stored: Stored, runs: Sequence[Stands], tasks: Tasks | None = None) -> Iterator[str]:
    """Yield the number of runs per state and stage, and the reasons of those that did not end well."""
    question = stored.record
    yield f"{question.name}: {question.question or question.command}"
    for stage in dict.fromkeys(run.cell.stage for run in runs):
        of_stage = [run for run in runs if run.cell.stage == stage]
        counts = Counter(run.state for run in of_stage)
        numbers = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
        yield f"  {stage or 'runs':<6} {len(of_stage)}: {numbers}"
        for run in of_stage:
            if run.state in _TOLD_EACH:
                own = _own(run.cell.overrides, stored)
                yield f"    {run.state} {run.cell.recipe_id}/seed-{run.cell.seed} ({own}): {run.reason}"
        reasons = Counter(run.reason for run in of_stage if run.state == "waiting" and run.reason)
        for reason, number in reasons.most_common():
            yield f"    {number} waiting: {reason}"
    if question.tuning and question.tuning.choices is None:
        yield "  final  to be chosen when the trials have been made"
    yield from _expected_end(stored, runs, tasks)


def document(stored: Stored, runs: Sequence[Stands]) -> dict[str, Any]:
    """Return the status as one JSON object.

    `sweep`, `question`, `command` name it; `counts` holds the number of runs per state; `runs` has one object per run
    with `stage` (tune, final or null), `recipe_id`, `seed`, `overrides`, `state` (running, waiting, lacks evaluations,
    interrupted, or the record's status), `reason` and `ended_well`.
    """
    return {
        "sweep": stored.record.name,
        "question": stored.record.question,
        "command": stored.record.command,
        "counts": dict(Counter(run.state for run in runs)),
        "runs": [
            {
                "stage": run.cell.stage,
                "recipe_id": run.cell.recipe_id,
                "seed": run.cell.seed,
                "overrides": list(run.cell.overrides),
                "state": run.state,
                "reason": run.reason,
                "ended_well": run.ended_well,
            }
            for run in runs
        ],
    }


def _expected_end(stored: Stored, runs: Sequence[Stands], tasks: Tasks | None) -> Iterator[str]:
    """Yield the expected end from the mean time of finished runs; nothing if no run is in progress."""
    running = sum(run.state == "running" for run in runs)
    waiting = sum(run.state == "waiting" for run in runs)
    finished = [run.cell for run in runs if run.state == "ok"] if running else []
    seconds = [took for cell in finished[-_ENOUGH:] if (took := stored.seconds(cell)) is not None]
    if not seconds:
        return
    allowed = tasks.submissions[-1].at_once if tasks and tasks.submissions else running
    at_once = max(1, min(allowed, running + waiting))
    left = timedelta(seconds=mean(seconds) * (running / 2 + waiting) / at_once)
    yield (
        f"  expected end {(datetime.now() + left).strftime('%Y-%m-%d %H:%M')}: {len(seconds)} runs took "
        f"{mean(seconds):.0f} s on average, {at_once} at once"
    )


def _own(overrides: Sequence[str], stored: Stored) -> str:
    """Return the words of a cell that are not arguments of the whole sweep."""
    given = set(stored.record.arguments or ())
    return " ".join(word for word in overrides if word not in given) or "the defaults"


@dataclass(frozen=True)
class Stored:
    """Record of a sweep and the folder of its runs."""

    runs_dir: Path
    record: SweepRecord

    def folder(self, cell: Cell) -> Path:
        """Return the folder of a cell's run."""
        return self.runs_dir / cell.recipe_id / f"seed-{cell.seed}"

    def run(self, cell: Cell) -> RunRecord | None:
        """Return a cell's record; None if it is missing or unreadable."""
        with contextlib.suppress(OSError, ValueError):
            return record.read(RunRecord, self.folder(cell) / "record.json")
        return None

    def status(self, cell: Cell, tasks: Tasks | None = None) -> tuple[str, str]:
        """Return (state, reason) of a cell's run.

        The state is running, waiting, lacks evaluations, interrupted (it goes on when the sweep is given again), or the
        status in the record. `tasks` holds the SLURM state of the sweep.
        """
        task = tasks.of.get((cell.recipe_id, cell.seed)) if tasks else None
        state, reason = self._on_record(cell)
        if task is not None and task.queued is not None:
            is_over = task.submission.cells_per_job > 1 and state in ("ok", "skipped")  # and its job goes on
            return (state, reason) if is_over else task.queued.says(task.job)
        if tasks and task and state in ("waiting", "failed", "interrupted") and not tasks.is_told(task):
            return "failed", tasks.ending(task)
        return state, reason

    def seconds(self, cell: Cell) -> float | None:
        """Return the seconds of a run over all its attempts; None if it has no record."""
        run = self.run(cell)
        if run is None:
            return None
        phases = [sum(phase.seconds for phase in attempt.phases.values()) for attempt in run.attempts]
        measured = [attempt.seconds for attempt in run.attempts]
        return sum(of_phases if took is None else took for took, of_phases in zip(measured, phases, strict=True))

    def _on_record(self, cell: Cell) -> tuple[str, str]:
        holder = lock.holder(self.folder(cell))
        if holder is not None and not lock.is_gone(holder):
            return "running", f"{holder}{_doubt(lock.silent_seconds(self.folder(cell)))}"
        try:
            run = record.read(RunRecord, self.folder(cell) / "record.json")
        except FileNotFoundError:
            return "waiting", ""
        except record.DamagedError as error:
            return "waiting", f"{error}; it is set aside when the run is made again"
        except (OSError, ValueError) as error:  # another version or unreadable: it must not be overwritten
            return "failed", str(error)
        if run.status == "ok" and not all(self._evaluation(cell, i).is_file() for i in cell.eval_ids):
            return "lacks evaluations", ""
        return "interrupted" if run.current.interrupted else run.status, run.current.reason

    def contestants(self) -> dict[str, list[selection.Trial]]:
        """Return the trials of every contestant; none for a sweep without stages."""
        settings = self.record.tuning.settings if self.record.tuning else ()
        return selection.trials(self._looks(), settings)

    def _looks(self) -> Iterator[selection.Look]:
        for cell in self.record.cells:
            if cell.stage == "tune":
                yield selection.Look(cell=cell, run=self.run(cell), validation=self._validation(cell))

    def _validation(self, cell: Cell) -> EvaluationRecord | None:
        for eval_id in cell.eval_ids:
            with contextlib.suppress(OSError, ValueError):
                evaluation = record.read(EvaluationRecord, self._evaluation(cell, eval_id))
                if evaluation.evaluation["kind"] == "heldout" and evaluation.evaluation["role"] == "validation":
                    return evaluation
        return None

    def _evaluation(self, cell: Cell, eval_id: str) -> Path:
        return record.evaluation_path(self.folder(cell), eval_id)


def _doubt(silent: float) -> str:
    return f", no sign of life for {timedelta(seconds=round(silent))}" if silent > lock.PATIENCE_SECONDS else ""


def find(runs_dir: Path, name: str) -> Stored:
    """Return the sweep of that name.

    Raises:
        ValueError: there is none, or its record cannot be read.
    """
    path = runs_dir / "sweeps" / name / "sweep.json"
    names = sorted(path.parent.name for path in runs_dir.glob("sweeps/*/sweep.json"))
    if name not in names:
        there = ", ".join(names) or "none yet; `harness -m sweep=NAME` starts one of sweeps/"
        raise ValueError(f"no sweep {name!r} below {runs_dir}: there is {there}")
    return Stored(runs_dir, record.read(SweepRecord, path))


def words_again(stored: Stored, *changed: str, given_again: Iterable[str] = ()) -> list[str]:
    """Return the command line's overrides of a sweep with `changed` replaced, for the same runs folder.

    Raises:
        ValueError: the record is of a version that did not keep the overrides, an override held a secret, or one may
            run code and is neither in `changed` nor among those `given_again`.
    """
    given = stored.record.arguments
    if given is None:
        raise ValueError(f"sweep {stored.record.name}: its record does not say how it was asked for; run its command")
    here = [f"runs_dir={stored.runs_dir}"] if stored.runs_dir != Path("runs") else []
    # Hydra does not pass hydra.searchpath on, so it is read from the recorded command
    searched = [word for word in shlex.split(stored.record.command) if setting_of(word) == "hydra.searchpath"]
    settings = {setting_of(word) for word in (*here, *changed)}
    permissions.refuse_repeated(stored.record.name, (*searched, *given), (*changed, *given_again))
    words = [*(word for word in (*searched, *given) if setting_of(word) not in settings), *here, *changed]
    refuse_removed(stored.record.name, words)
    return words


def refuse_removed(name: str, words: Iterable[str]) -> None:
    """Refuse words whose secret was removed from the record.

    Raises:
        ValueError: there is such a word; names the setting of the first.
    """
    for word in words:
        if redact.REMOVED in word:
            setting = setting_of(word)
            raise ValueError(
                f"sweep {name}: {setting} held a secret, which its record does not keep: give {setting}=... once more "
                "behind the sweep's name"
            )


def further_values(stored: Stored) -> dict[str, list[float]]:
    """Return tuned setting -> its tried values and one more beyond every edge at which a chosen value lies.

    All contestants get the same values, so that the number of trials stays equal.

    Raises:
        ValueError: the sweep is not tuned or not finished, or a contestant does not tune the setting.
    """
    tuning, name = stored.record.tuning, stored.record.name
    if tuning is None:
        raise ValueError(f"sweep {name}: it has no stages, so nothing was tuned; give other values on the command line")
    if tuning.choices is None:
        raise ValueError(f"sweep {name}: its trials have not all been made; run it first")
    trials = stored.contestants()
    chosen = {choice.contestant: choice.recipe_id for choice in tuning.choices}
    wanted: dict[str, set[float]] = {}
    for contestant, tried in trials.items():
        recipe_id = chosen.get(contestant)
        for edge in selection.edges(tried, recipe_id) if recipe_id else []:
            wanted.setdefault(edge.setting, set()).add(selection.beyond(edge))
    every = [trial for tried in trials.values() for trial in tried]
    for setting in wanted:
        lacking = sorted({trial.contestant for trial in every if setting not in trial.settings})
        if lacking:
            raise ValueError(
                f"sweep {name}: {setting} is not tuned for {', '.join(lacking)}, so the budget would not stay equal: "
                f"change sweeps/{name}.yaml"
            )
    return {setting: sorted({*new, *selection.tried_values(every, setting)}) for setting, new in wanted.items()}
