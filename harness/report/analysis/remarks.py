"""Remarks on runs that a reader of their numbers must know: lost seeds, repeats, interruptions, changes, precision."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from harness.records import programs
from harness.records.identity import digest
from harness.report import names
from harness.report.analysis.facts import LOSS_IN_BF16
from harness.report.data.groups import Group
from harness.report.data.items import contradictions
from harness.report.data.rows import Loaded, Row
from harness.report.display import collected, percent, several, short
from harness.report.document import fixed

_NAMED = 6  # runs that a line names
_NAMED_ALIKE = 3  # runs that a line names, of those that have the same to say


def lines(groups: Sequence[Group], loaded: Loaded) -> list[str]:
    """Return the remarks: on each method's lost seeds, on its runs, and on runs that lie there and are not shown."""
    rows = [row for group in groups if group.ok for row in group.rows]
    histories = collected((remark, row.title) for row in rows for remark in _history(row))
    happened = [f"{remark}: {several(runs, _NAMED)}" for remark, runs in histories.items()]
    return [*divergences(groups), *happened, *contradicted(rows), *_unasked(loaded)]


def divergences(groups: Sequence[Group]) -> list[str]:
    """Return the rate of divergence of each method that lost a seed, and the seeds that say nothing of it."""
    lines = []
    for group in groups:
        if not group.failed or (group.first.is_trial and not group.ok):
            continue
        finished = len(group.rows) if group.ok else 0
        diverged = [row for row in group.failed if row.status == "diverged"]
        if diverged:
            remainder = f"; its scores are of the {finished} that did not" if finished else ""
            lines.append(f"{group.name}: {_rate(len(diverged), finished + len(diverged))} diverged{remainder}")
        if finished and (others := [row for row in group.failed if row.status != "diverged"]):
            fates = ", ".join(f"seed {row.seed} {row.status or 'missing'}" for row in others)
            lines.append(f"{group.name}: seeds without a result that did not diverge, left out: {fates}")
    return lines


def _rate(count: int, total: int) -> str:
    from harness.stats import wilson_interval

    low, high = wilson_interval(count, total)
    noun = "seed" if total == 1 else "seeds"
    return f"{count} of {total} {noun} ({percent(count, total)} %, 95 % interval {100 * low:.0f} to {100 * high:.0f} %)"


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
    if digest(record.recipe) != record.recipe_id:
        yield "the recipe in the record is not the one that its id was made of"


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
    results = {row.recipe_id: row.name for row in reversed(loaded.rows) if row.status == "ok"}
    seeds_of = collected(
        (results[row.recipe_id], f"{row.seed} ({row.status or 'unreadable'})")
        for row in loaded.unasked
        if row.recipe_id in results
    )
    return [
        f"{name}: further seeds lie in the runs folder and are not part of this sweep: {', '.join(seeds)}"
        for name, seeds in seeds_of.items()
    ]


def precision_remarks(groups: Sequence[Group]) -> list[str]:
    """Return a line for evaluations in bfloat16, and one for what it would change of the others."""
    trained = [group for group in groups if group.trained]
    rounded = [g.name for g in trained if any(s.record.evaluation["precision"] == "bf16" for s in g.scored)]
    lines = []
    if rounded:
        lines.append(
            f"Evaluated in BF16: {', '.join(rounded)}. Rounding cancels a part of a small update, more of it for some "
            "methods than for others, so that differences between methods are biased; eval.precision=fp32 evaluates "
            "the same weights again."
        )
    changes = collected(
        ((group.label, group.name), scored.record.provenance[LOSS_IN_BF16] - scored.record.metrics["loss"].value)
        for group in trained
        for scored in group.scored
        if LOSS_IN_BF16 in scored.record.provenance and "loss" in scored.record.metrics
    )
    if changes:
        means = (f"{fixed(sum(seeds) / len(seeds), 4, signed=True)} ({name})" for (_, name), seeds in changes.items())
        lines.append(f"Evaluated in FP32. In BF16 the validation loss would change (in nats) by {', '.join(means)}.")
    return lines


def interruptions(loaded: Loaded) -> list[str]:
    """Return a line for each interrupted run of a report, its trials included."""
    rows = (*loaded.rows, *loaded.trials)
    titles = {scored.record.eval_id: names.task(scored.task).display for row in rows for scored in row.scored}
    return [_interruption(row, loaded, titles) for row in rows if row.status == "interrupted"]


def command(row: Row, loaded: Loaded) -> str:
    """Return the command that finishes the run: the sweep's, else the run's own; "" where no record has it."""
    if loaded.sweep is not None:
        return loaded.sweep.command
    return str(row.provenance.get("command") or "")


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


def retrained(rows: Sequence[Row]) -> list[str]:
    """Return a line for each run that was trained again: its scores before and now, and changes of versions."""
    lines = []
    for row in rows:
        before = {evaluation.eval_id: evaluation for evaluation in row.replaced}
        pairs = [(before[s.record.eval_id], s.record) for s in row.scored if s.record.eval_id in before]
        scores = [
            f"{names.task(new.evaluation['task']).display} {names.metric(metric).display} "
            f"{(first := old.metrics[metric].value):.4g} -> {(second := new.metrics[metric].value):.4g} "
            f"({second - first:+.2g})"
            for old, new in pairs
            for metric in sorted(old.metrics.keys() & new.metrics.keys())
        ]
        moved = dict.fromkeys(text for old, new in pairs for text in program_changes(old.provenance, new.provenance))
        made_with = f"made with {', '.join(moved)}" if moved else "made with the same code and versions"
        if pairs:
            lines.append(f"trained again: {row.title}: {', '.join(scores)}; {made_with}")
    return lines


def older(rows: Sequence[Row], asked_with: Mapping[str, Any] | None) -> list[str]:
    """Return a line for each change of program or versions between runs and the last request of their sweep."""
    runs_of = collected(
        (moved, row.title)
        for row in (rows if asked_with else ())
        if row.record and (moved := tuple(program_changes(row.made_with, asked_with or {})))
    )
    return [
        f"made with another program than the sweep was last asked with: "
        f"{several([*dict.fromkeys(runs)], _NAMED_ALIKE)}: "
        f"{', '.join(moved)}; force=true on one of them shows how far that moves it"
        for moved, runs in runs_of.items()
    ]


def program_changes(old: Mapping[str, Any], new: Mapping[str, Any]) -> Iterator[str]:
    """Yield the changes that can move a score, as `peft 0.20.0 -> 0.21.0`."""
    for name, before, after in programs.changes(old, new):
        yield f"{name.replace('_', ' ')} {_version(name, before)} -> {_version(name, after)}"


def _version(name: str, value: Any) -> str:
    """Return a version as a sentence has it: twelve digits of a commit, yes or no."""
    return short(value)[:12] if name == "commit" and value else names.value(value) if value is not None else "unknown"
