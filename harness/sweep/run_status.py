"""Sweep read from its records on disk, for the commands that inspect or continue it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from harness.config import permissions
from harness.config.sweep_file import setting_of
from harness.records import record, redact, selection
from harness.records.record import Cell, EvaluationRecord, RunRecord, SweepRecord
from harness.run import lock
from harness.sweep.cluster.submissions import Tasks


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
        told = [attempt.seconds for attempt in run.attempts]
        return sum(of_phases if took is None else took for took, of_phases in zip(told, phases, strict=True))

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
                found = record.read(EvaluationRecord, self._evaluation(cell, eval_id))
                if found.evaluation["kind"] == "heldout" and found.evaluation["role"] == "validation":
                    return found
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
    known = sorted(found.parent.name for found in runs_dir.glob("sweeps/*/sweep.json"))
    if name not in known:
        raise ValueError(f"no sweep {name!r} below {runs_dir}: there is {', '.join(known) or 'none'}")
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
    found = stored.contestants()
    chosen = {one.contestant: one.recipe_id for one in tuning.choices}
    wanted: dict[str, set[float]] = {}
    for contestant, tried in found.items():
        recipe_id = chosen.get(contestant)
        for edge in selection.edges(tried, recipe_id) if recipe_id else []:
            wanted.setdefault(edge.setting, set()).add(selection.beyond(edge))
    every = [trial for tried in found.values() for trial in tried]
    for setting in wanted:
        lacking = sorted({trial.contestant for trial in every if setting not in trial.settings})
        if lacking:
            raise ValueError(
                f"sweep {name}: {setting} is not tuned for {', '.join(lacking)}, so the budget would not stay equal: "
                f"change sweeps/{name}.yaml"
            )
    return {setting: sorted({*new, *selection.tried_values(every, setting)}) for setting, new in wanted.items()}
