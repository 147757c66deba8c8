"""Remarks on runs that a reader of their numbers must know: lost seeds, repeats, interruptions, changes, precision."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records.identity import digest
from harness.records.record import EvaluationRecord, RunRecord
from harness.report import names
from harness.report.data.groups import Group
from harness.report.data.items import ScoredEvaluation, contradictions
from harness.report.data.rows import Loaded, Row
from harness.report.display import percent, several, short

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
            found.append(f"{label}: seeds without a result that did not diverge, left out: {fates}")
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
        yield f"evaluated on the test sets {row.test_reads} times, once for each set of weights that the run has had"
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


def contradicted(rows: Sequence[Row]) -> list[str]:
    """Return a line for every score that its items do not give: either was edited, or the score is no mean."""
    return [
        f"{row.title}, {scored.task} {metric}: the record says {stated:.6g} and its items give {given:.6g}, so that "
        "nothing is claimed of it"
        for row in rows
        for scored in row.scored
        for metric, stated, given in contradictions(scored)
    ]


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


LOSS_IN_BF16 = "loss_in_bf16"  # in the provenance of a validation: the same loss, computed in bfloat16


def precision_remarks(groups: Sequence[Group]) -> list[str]:
    """Return a line for evaluations in bfloat16, and one for what it would change of the others."""
    trained = [group for group in groups if group.ok and group.trained]
    rounded = [group.name for group in trained if any(_precision_of(scored) == "bf16" for scored in _every(group))]
    lines = []
    if rounded:
        lines.append(
            f"Evaluated in bf16: {', '.join(rounded)}. Rounding cancels a part of a small update, more of it for some "
            "methods than for others, so that differences between methods are biased; eval.precision=fp32 evaluates "
            "the same weights again."
        )
    changes = [f"{change:+.4f} ({group.name})" for group in trained if (change := _change(group)) is not None]
    if changes:
        lines.append(
            f"Evaluated in fp32. Computed in bf16 the validation loss differs by, in nats: {', '.join(changes)}."
        )
    return lines


def _change(group: Group) -> float | None:
    """Return the mean over seeds of the validation loss in bfloat16 less that in float32; None where none was taken."""
    changes = [
        scored.record.provenance[LOSS_IN_BF16] - scored.record.metrics["loss"].value
        for scored in _every(group)
        if LOSS_IN_BF16 in scored.record.provenance and "loss" in scored.record.metrics
    ]
    return sum(changes) / len(changes) if changes else None


def _every(group: Group) -> list[ScoredEvaluation]:
    return [scored for several in group.evaluations.values() for scored in several]


def _precision_of(scored: ScoredEvaluation) -> str:
    precision: str = scored.record.evaluation["precision"]
    return precision


def interruptions(loaded: Loaded) -> list[str]:
    """Return a line for each interrupted run of a report, its trials included."""
    titles = _titles(loaded)
    return [_interruption(row, loaded, titles) for row in (*loaded.rows, *loaded.trials) if row.status == "interrupted"]


def command(row: Row, loaded: Loaded) -> str:
    """Return the command that finishes the run: the sweep's, else the run's own; "" where no record has it."""
    if loaded.sweep is not None:
        return loaded.sweep.command
    return str(row.current.provenance.get("command") or "") if row.current else ""


def _interruption(row: Row, loaded: Loaded, titles: dict[str, str]) -> str:
    done = [names.task(scored.task).display for scored in row.scored]
    parts = [f"{row.title}: {row.reason}"]
    if done:
        parts.append(f"evaluated: {several(done, 12)}")
    if row.unfinished:
        parts.append(f"missing: {several([titles.get(eval_id, eval_id) for eval_id in row.unfinished], 12)}")
    if resume := command(row, loaded):
        parts.append(f"go on with: {resume}")
    return "; ".join(parts)


def _titles(loaded: Loaded) -> dict[str, str]:
    """Return the task of every evaluation that some run of the report has."""
    every = (scored for row in (*loaded.rows, *loaded.trials) for scored in row.scored)
    return {scored.record.eval_id: names.task(scored.task).display for scored in every}


_NAMED_ALIKE = 3  # runs that a line names, of those that have the same to say
_PROGRAM = ("harness", "commit", "uncommitted_changes")


def retrained(rows: Sequence[Row]) -> list[str]:
    """Return a line for each run that was trained again: its scores before and now, and changes of versions."""
    return [line for row in rows for line in _of_run(row)]


def older(rows: Sequence[Row], asked_with: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each change of program or versions between runs and the last request of their sweep."""
    by_change: dict[tuple[str, ...], dict[str, None]] = {}
    for row in rows if asked_with else ():
        moved = tuple(_changed(_made_by(row), asked_with or {})) if row.current else ()
        if moved:
            by_change.setdefault(moved, {})[row.title] = None
    return [
        f"made with another program than the sweep was last asked with: {several(list(runs), _NAMED_ALIKE)}: "
        f"{', '.join(changed)}; force=true on one of them shows how far that moves it"
        for changed, runs in by_change.items()
    ]


def _made_by(row: Row) -> Mapping[str, Any]:
    """The provenance of the attempt that made the weights; a later one may have evaluated alone."""
    assert row.record is not None and row.current is not None, "asked for by those that call"
    return (row.record.trained_by or row.record.current).provenance


def _of_run(row: Row) -> Iterator[str]:
    before = {evaluation.eval_id: evaluation for evaluation in row.replaced}
    pairs = [(before[s.record.eval_id], s.record) for s in row.scored if s.record.eval_id in before]
    if not pairs:
        return
    scores = [text for old, new in pairs for text in _moved_scores(old, new)]
    moved = dict.fromkeys(text for old, new in pairs for text in _changed(old.provenance, new.provenance))
    made_with = f"made with {', '.join(moved)}" if moved else "made with the same commit and versions"
    yield f"trained again: {row.title}: {', '.join(scores)}; {made_with}"


def _moved_scores(old: EvaluationRecord, new: EvaluationRecord) -> Iterator[str]:
    """For example `validation loss 2.301 -> 2.305 (+0.004)`."""
    name = f"{names.task(new.evaluation['task']).display} ({new.evaluation['role']})"
    for metric in sorted(old.metrics.keys() & new.metrics.keys()):
        first, second = old.metrics[metric].value, new.metrics[metric].value
        yield f"{name} {names.metric(metric).display} {first:.4g} -> {second:.4g} ({second - first:+.2g})"


def _changed(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield the changes that can move a score: in the program, uncommitted changes and library versions."""
    facts = [
        {key: facts_of.get(key) for key in _PROGRAM} | dict(facts_of.get("versions") or {}) for facts_of in (old, new)
    ]
    for key in sorted(facts[0].keys() | facts[1].keys()):
        first, second = (program.get(key) for program in facts)
        if first != second:
            yield f"{key.replace('_', ' ')} {short(first)} -> {short(second)}"
