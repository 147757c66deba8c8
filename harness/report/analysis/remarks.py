"""Remarks on single runs that a reader of their numbers must know: lost seeds, repeats, resumptions, contradictions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records.identity import digest
from harness.records.record import RunRecord
from harness.report.data.groups import Group
from harness.report.data.outcomes import contradicted
from harness.report.data.rows import Loaded, Row
from harness.report.display import percent, several

_NAMED = 6  # runs that a line names


def lines(groups: Sequence[Group], loaded: Loaded) -> list[str]:
    """Return the remarks: on each method's lost seeds, on its runs, and on runs that lie there and are not shown."""
    rows = [row for group in groups if group.ok for row in group.rows]
    return [*divergences(groups), *_histories(rows), *contradicted(rows), *_unasked(loaded)]


def divergences(groups: Sequence[Group]) -> list[str]:
    """Return the rate of divergence of each method that lost a seed, and the seeds that say nothing of it."""
    found = []
    for label, kept, lost in _lost(groups):
        diverged = [row for row in lost if row.status == "diverged"]
        if diverged:
            remainder = f"; its scores are of the {kept} that did not" if kept else ""
            found.append(f"{label}: {_rate(len(diverged), kept + len(diverged))} diverged{remainder}")
        if kept and (others := [row for row in lost if row.status != "diverged"]):
            fates = ", ".join(f"seed {row.seed} {row.status or 'missing'}" for row in others)
            found.append(f"{label}: no result, and no outcome of the method either: {fates}")
    return found


def _lost(groups: Sequence[Group]) -> Iterator[tuple[str, int, list[Row]]]:
    """Yield the name, the number of seeds with a result and the runs without one, for each recipe that has such."""
    for group in groups:
        is_trial = group.first.cell is not None and group.first.cell.stage == "tune"
        if group.failed and not (is_trial and not group.ok):
            yield group.name, len(group.rows) if group.ok else 0, list(group.failed)


def _rate(count: int, total: int) -> str:
    from harness.stats import wilson_interval

    low, high = wilson_interval(count, total)
    noun = "seed" if total == 1 else "seeds"
    return f"{count} of {total} {noun} ({percent(count, total)} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


def _histories(rows: Sequence[Row]) -> list[str]:
    """Return a line for each thing that happened to runs, with the runs."""
    found: dict[str, list[str]] = {}
    for row in rows:
        for remark in _history(row):
            found.setdefault(remark, []).append(row.title)
    return [f"{remark}: {several(runs, _NAMED)}" for remark, runs in found.items()]


def _history(row: Row) -> Iterator[str]:
    record = row.record
    if record is None:
        return
    made = [
        attempt for attempt in record.attempts if attempt.status == "ok" and attempt.weights_from == attempt.started_at
    ]
    if len(made) > 1:
        yield f"trained {len(made)} times, and the last result is shown"
    if row.test_reads > 1:
        yield f"the test was read {row.test_reads} times, once for each of the weights that the run has had"
    for attempt in record.attempts:
        if attempt.resumed_at_step is not None and attempt.weights_from == record.current.weights_from:
            yield f"resumed from a checkpoint at step {attempt.resumed_at_step}"
    counts = record.measured.fingerprint
    if counts and counts.trainable_parameters != counts.expected_trainable_parameters:
        yield (
            f"trains {counts.trainable_parameters:,} parameters where the method's formula gives "
            f"{counts.expected_trainable_parameters:,}"
        )
    if not _is_its_own(record):
        yield "the recipe in the record is not the one that its id was made of"


def _is_its_own(record: RunRecord) -> bool:
    return digest(record.recipe) == record.recipe_id


def _unasked(loaded: Loaded) -> list[str]:
    """Return the seeds that lie beside those of the results and that the sweep leaves out."""
    names = {row.recipe_id: row.name for row in reversed(loaded.rows) if row.status == "ok"}
    found: dict[str, list[str]] = {}
    for row in loaded.unasked:
        if row.recipe_id in names:
            found.setdefault(names[row.recipe_id], []).append(f"{row.seed} ({row.status or 'unreadable'})")
    return [
        f"{label}: further seeds lie in the runs folder and are not part of this sweep: {', '.join(seeds)}"
        for label, seeds in found.items()
    ]
