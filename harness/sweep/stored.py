"""A sweep as its records are on disk, for the commands that look at one or go on with it."""

from __future__ import annotations

import contextlib
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from harness.config.question import setting_of
from harness.records import choice, record, redact
from harness.records.record import Cell, EvaluationRecord, RunRecord, SweepRecord
from harness.run import claim
from harness.sweep.cluster.submitted import Tasks


@dataclass(frozen=True)
class Stored:
    """A sweep's record and the folder of its runs."""

    runs_dir: Path
    record: SweepRecord

    def folder(self, cell: Cell) -> Path:
        """Where a cell's run lies."""
        return self.runs_dir / cell.recipe_id / f"seed-{cell.seed}"

    def run(self, cell: Cell) -> RunRecord | None:
        """A cell's record; None if there is none or it cannot be read."""
        with contextlib.suppress(OSError, ValueError):
            return record.read(RunRecord, self.folder(cell) / "record.json")
        return None

    def status(self, cell: Cell, tasks: Tasks | None = None) -> tuple[str, str]:
        """(running | waiting | lacks evaluations | the record's status, why); `tasks`: what SLURM says of the sweep."""
        task = tasks.of.get((cell.recipe_id, cell.seed)) if tasks else None
        if task is not None and task.queued is not None:
            return task.queued.says(task.job)
        state, reason = self._on_record(cell)
        if tasks and task and state in ("waiting", "failed") and not tasks.is_told(task):
            return "failed", tasks.ending(task)
        return state, reason

    def seconds(self, cell: Cell) -> float | None:
        """How long a run took with all its attempts; None if that is not on record."""
        run = self.run(cell)
        if run is None:
            return None
        phases = [sum(phase.seconds for phase in attempt.phases.values()) for attempt in run.attempts]
        told = [attempt.seconds for attempt in run.attempts]
        return sum(of_phases if took is None else took for took, of_phases in zip(told, phases, strict=True))

    def _on_record(self, cell: Cell) -> tuple[str, str]:
        holder = claim.holder(self.folder(cell))
        if holder is not None and not claim.is_gone(holder):
            return "running", f"{holder}{_doubt(claim.silent_seconds(self.folder(cell)))}"
        try:
            run = record.read(RunRecord, self.folder(cell) / "record.json")
        except FileNotFoundError:
            return "waiting", ""
        except record.DamagedError as error:
            return "waiting", f"{error}; it is set aside when the run is made again"
        except (OSError, ValueError) as error:  # of another version, or not to be read: nobody may write over it
            return "failed", str(error)
        if run.status == "ok" and not all(self._evaluation(cell, i).is_file() for i in cell.eval_ids):
            return "lacks evaluations", ""
        return run.status, run.current.reason

    def contestants(self) -> dict[str, list[choice.Trial]]:
        """The trials of every contestant; none of a sweep without stages."""
        settings = self.record.tuning.settings if self.record.tuning else ()
        return choice.trials(self._looks(), settings)

    def _looks(self) -> Iterator[choice.Look]:
        for cell in self.record.cells:
            if cell.stage == "tune":
                yield choice.Look(cell=cell, run=self.run(cell), validation=self._validation(cell))

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
    return f", no sign of life for {timedelta(seconds=round(silent))}" if silent > claim.PATIENCE_SECONDS else ""


def find(runs_dir: Path, name: str) -> Stored:
    """The sweep of that name.

    Raises:
        ValueError: there is none, or its record cannot be read.
    """
    path = runs_dir / "sweeps" / name / "sweep.json"
    if not path.is_file():
        known = sorted(found.parent.name for found in runs_dir.glob("sweeps/*/sweep.json"))
        raise ValueError(f"no sweep {name!r} below {runs_dir}: there is {', '.join(known) or 'none'}")
    return Stored(runs_dir, record.read(SweepRecord, path))


def words_again(stored: Stored, *changed: str) -> list[str]:
    """The command line's overrides of a sweep with some replaced, into the same runs folder.

    Raises:
        ValueError: the record is of a version that did not keep them, or one of them held a secret.
    """
    given = stored.record.arguments
    if given is None:
        raise ValueError(f"sweep {stored.record.name}: its record does not say how it was asked for; run its command")
    here = [f"runs_dir={stored.runs_dir}"] if stored.runs_dir != Path("runs") else []
    # Hydra keeps to itself where it was told to look for the sweep's file
    searched = [word for word in shlex.split(stored.record.command) if setting_of(word) == "hydra.searchpath"]
    settings = {setting_of(word) for word in (*here, *changed)}
    words = [*(word for word in (*searched, *given) if setting_of(word) not in settings), *here, *changed]
    refuse_removed(stored.record.name, words)
    return words


def refuse_removed(name: str, words: Iterable[str]) -> None:
    """Refuse to ask again with what stands in a record in the place of a secret.

    Raises:
        ValueError: names the first such setting.
    """
    for word in words:
        if redact.REMOVED in word:
            setting = setting_of(word)
            raise ValueError(
                f"sweep {name}: {setting} held a secret, which its record does not keep: give {setting}=... once more "
                "behind the sweep's name"
            )


def further_values(stored: Stored) -> dict[str, list[float]]:
    """Tuned setting -> all values that were tried, and one more beyond every edge at which a chosen value lies.

    The values are those of all contestants, so that the number of trials stays equal.

    Raises:
        ValueError: the sweep is not tuned, is not finished, or a setting is not every contestant's.
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
        for edge in choice.edges(tried, recipe_id) if recipe_id else []:
            wanted.setdefault(edge.setting, set()).add(choice.beyond(edge))
    every = [trial for tried in found.values() for trial in tried]
    for setting in wanted:
        lacking = sorted({trial.contestant for trial in every if setting not in trial.settings})
        if lacking:
            raise ValueError(
                f"sweep {name}: {setting} is not tuned for {', '.join(lacking)}, so the budget would not stay equal: "
                f"change sweeps/{name}.yaml"
            )
    return {setting: sorted({*new, *choice.tried_values(every, setting)}) for setting, new in wanted.items()}
