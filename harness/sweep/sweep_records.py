"""Record of a sweep, which is written before the first run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.config.experiment import canonical, digest
from harness.config.overrides import expand
from harness.config.sweep_file import SweepFile, recipe_keys, varied
from harness.records import disk, record, registration
from harness.records.record import ClaimRecord, SweepRecord, Tuning
from harness.run import provenance
from harness.run.progress import board
from harness.sweep.planned_runs import PlannedRun

_ASKED_WITH = ("harness", "commit", "uncommitted_changes", "versions")


@dataclass(frozen=True)
class Written:
    """Content of a sweep's record. `started` are the unfinished runs, as (recipe_id, seed)."""

    asked: SweepFile | None
    arguments: tuple[str, ...]
    plan: Sequence[PlannedRun]
    started: set[tuple[str, int]]
    tuning: Tuning | None = None


def write_question(written: Written) -> str:
    """Write the record and return the sweep's name; a sweep without a name gets a hash of its cells."""
    asked, plan = written.asked, written.plan
    name = asked.name if asked else digest(canonical([planned.identity for planned in plan]))
    path = Path(plan[0].experiment.runs_dir) / "sweeps" / name / "sweep.json"
    swept = varied(expand((), written.arguments))  # settings with several values on the command line vary on purpose
    runs = dict.fromkeys(planned.identity[:2] for planned in plan)
    question = SweepRecord(
        schema=record.SCHEMA,
        name=name,
        question=asked.question if asked else None,
        command=provenance.command(),
        cells=tuple(planned.written() for planned in plan),
        already_done=tuple(f"{recipe}/seed-{seed}" for recipe, seed in runs if (recipe, seed) not in written.started),
        arguments=written.arguments,
        primary=asked.primary if asked else None,
        margin=asked.margin if asked else None,
        varies=recipe_keys([*(asked.varies if asked else ()), *(asked.tuned if asked else ()), *swept]),
        tuning=_with_earlier(path, written),
        asked_with={key: provenance.facts()[key] for key in _ASKED_WITH},
        claims=claim_records(asked) if asked else (),
    )
    runs_dir = Path(plan[0].experiment.runs_dir)
    for file in (path, registration.path(runs_dir, name)):
        for line in disk.make_way(file, runs_dir):
            board.say(line)
    disk.begin(path.parent)
    registration.adopt(name, runs_dir)
    record.write(question, path)
    return name


def claim_records(asked: SweepFile) -> tuple[ClaimRecord, ...]:
    """Return the claims of a question in the form of its record."""
    return tuple(ClaimRecord(claim=one.claim, source=one.source, note=one.note) for one in asked.claims)


def _with_earlier(path: Path, written: Written) -> Tuning | None:
    """Return the tuning with the earlier choices of the same sweep that differ from the present ones.

    Earlier choices count only if one of their recipes is among the present trials. Otherwise that sweep of the same
    name asked another question.
    """
    tuning = written.tuning
    if tuning is None:
        return None
    try:
        before = record.read(SweepRecord, path).tuning
    except (OSError, ValueError):  # no record, or one of another version
        return tuning
    tried = {planned.identity[0] for planned in written.plan}
    chosen = [*(before.earlier if before else ()), *([before.choices] if before and before.choices else ())]
    revised = [one for one in chosen if tried & {choice.recipe_id for choice in one}]
    now = {choice.recipe_id for choice in tuning.choices} if tuning.choices is not None else None
    if revised and {choice.recipe_id for choice in revised[-1]} == now:
        revised.pop()
    return replace(tuning, earlier=tuple(revised))
