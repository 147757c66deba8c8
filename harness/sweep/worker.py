"""Workers of one sweep: any number of identical processes, each of which takes free runs until none is left.

They share nothing but the runs folder. A run is taken by the lock of `runs/sweeps/<name>/taken/<recipe>-seed-<n>/`,
which its holder keeps alive (see `harness.run.lock`), so that the run of a worker that was killed is free again.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from harness.records.base import Strict
from harness.records.record import RunRecord
from harness.run import lock, state
from harness.run.progress import board
from harness.sweep import sweep
from harness.sweep.local import NONE_LEFT as NONE_LEFT
from harness.sweep.local import DetachedSweepError as DetachedSweepError
from harness.sweep.local import Made
from harness.sweep.planned_runs import PlannedRun, is_done
from harness.sweep.status import document, find, standing

RunKey = tuple[str, int]  # recipe and seed
LOOK_SECONDS = 1.0  # between two looks at runs that others hold
_DESCRIPTOR = re.compile(r"/dev/fd/(\d+)")


@dataclass(frozen=True, kw_only=True)
class WorkerSpec(Strict):
    """Settings `hydra.launcher` of `hydra/launcher=worker`."""

    once: bool = False  # make one run and leave the others
    outcome: str | None = None  # file that a JSON object is appended to at the end; see `write_outcome`


def launch(pending: Sequence[PlannedRun], name: str, spec: WorkerSpec, made: list[RunKey]) -> list[Made]:
    """Make free runs until every run has ended, here or in another worker, and return how they ended.

    Args:
        pending: the runs.
        name: of the sweep.
        spec: the launcher's settings.
        made: takes the runs that this process makes.

    Raises:
        DetachedSweepError: with `once`, when one run was made and others are left.
        ValueError: a setting asks that what has a result is made again: it would stay open.
    """
    for setting, without in (("force", "false"), ("rerun", "[]")):
        if any(getattr(planned.experiment, setting) for planned in pending):
            raise ValueError(
                f"{setting} with hydra/launcher=worker: each worker would make the same runs again, without an end; "
                f"give {setting}={without}, or leave the launcher out"
            )
    locks = [_Taken(planned, name) for planned in pending]
    errors: dict[int, Exception] = {}
    while left := [
        position for position, planned in enumerate(pending) if position not in errors and _is_open(planned)
    ]:
        for position in left:
            with locks[position].taken() as is_mine:
                if not is_mine or not _is_open(pending[position]):
                    continue
                made.append(pending[position].identity[:2])
                try:
                    sweep.run_cell(pending[position].experiment)
                except Exception as error:  # ends this run alone; `sweep.work` says why
                    errors[position] = error
            if spec.once and position not in errors:
                raise DetachedSweepError(_left(pending))
            break
        else:
            time.sleep(LOOK_SECONDS)
    return [
        Made(error=errors[position]) if position in errors else Made(value=_status(planned))
        for position, planned in enumerate(pending)
    ]


class _Taken:
    """Lock by which workers share out a run."""

    def __init__(self, planned: PlannedRun, name: str) -> None:
        experiment = planned.experiment
        recipe_id, seed, _ = planned.identity
        self._folder = Path(experiment.runs_dir) / "sweeps" / name / "taken" / f"{recipe_id}-seed-{seed}"
        self._observer = lock.Observer(self._folder)
        self._run = lock.Observer(experiment.folder)  # which another command of the harness may hold, that is no worker

    @contextlib.contextmanager
    def taken(self) -> Iterator[bool]:
        """Yield True while this process holds the run; False at once where another one does."""
        if not (self._run.is_free() and self._observer.is_free()):
            yield False
            return
        try:
            with lock.hold(self._folder, _give_way, observer=self._observer):
                yield True
        except _HeldError:
            yield False


class _HeldError(Exception):
    """Another worker was faster."""


def _give_way(other: lock.Owner) -> None:
    raise _HeldError


def _is_open(planned: PlannedRun) -> bool:
    """Return whether a run is to be made: it has no result, or was interrupted and goes on. A failure is a result."""
    recorded = state.readable(planned.experiment)
    if recorded is not None and recorded.status == "failed" and not recorded.current.interrupted:
        return False
    return not is_done(planned.experiment)


def _status(planned: PlannedRun) -> str:
    recorded: RunRecord | None = state.readable(planned.experiment)
    return recorded.status if recorded is not None else "failed"


def _left(pending: Sequence[PlannedRun]) -> str:
    number = sum(map(_is_open, pending))
    return (
        f"one run was made; {number} of {len(pending)} are left, taken or free" if number else "the last run was made"
    )


def announce(pending: Sequence[PlannedRun]) -> None:
    """Say what becomes of runs that failed before: no worker makes them again, or all would, without an end."""
    failed = sum(not _is_open(planned) for planned in pending)
    if failed:
        board.say(
            f"{failed} of {len(pending)} runs failed before and are left alone: `harness sweep rerun` tries again"
        )


def write_outcome(file: str, runs_dir: Path, name: str, made: Sequence[RunKey], code: int) -> None:
    """Append what `harness sweep status --json` prints, with what this worker did.

    `outcome` is "made", or "none left" where no run was left for this worker; `made` has the objects of the runs that
    it made, however they ended; `exit_code` is the command's.
    """
    stored = find(runs_dir, name)
    status = document(stored, standing(stored))
    own = [run for run in status["runs"] if (run["recipe_id"], run["seed"]) in made]
    outcome = {"outcome": "made" if made else "none left", "made": own, "exit_code": code}
    append(file, json.dumps({**outcome, **status}, indent=1) + "\n")


def append(file: str, text: str) -> None:
    """Append text to a file. A descriptor of this process, as in `/dev/fd/3`, is written to as it is.

    Opening its name again fails for a socket, and for a terminal or a pipe that another user has opened.
    """
    own = _DESCRIPTOR.fullmatch(file)
    with os.fdopen(os.dup(int(own[1])), "w", encoding="utf-8") if own else Path(file).open("a", encoding="utf-8") as to:
        to.write(text)
