"""Records of this project's runs, as rows for the referee."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from harness.report.analysis.comparable import Guard, check, check_trials
from harness.report.analysis.facts import effective_scale
from harness.report.analysis.remarks import contradicted
from harness.report.data import tuning
from harness.report.data.groups import Group, grouped, headline
from harness.report.data.load import load, sweep_names
from harness.report.data.rows import Loaded, Row, learning_rate
from harness.report.display import several
from harness.review.row import Finding, Score, Submission, repeats
from harness.review.row import Row as Reviewed

if TYPE_CHECKING:
    from harness.stats.estimate import Floats

_MANY_ITEMS = 100


def records(runs: Path, sweep: str | None) -> list[tuple[str, Submission]]:
    """Return the name and the rows of each sweep, or of all runs where there is no sweep.

    Raises:
        ValueError: there is no record, or no sweep of that name.
    """
    names: list[str | None] = [sweep] if sweep else [*sweep_names([runs])] or [None]
    return [(name or str(runs), _submission(load([runs], name))) for name in names]


def _submission(loaded: Loaded) -> Submission:
    groups = grouped(loaded.rows)
    declared = loaded.sweep.varies if loaded.sweep else None
    findings = [*_differences(check(groups, declared)), *_of_trials(loaded), *_of_files(loaded), *_lost(groups)]
    findings += _copies(groups)
    items = any(scored.items for row in loaded.rows for scored in row.scored)
    rows = tuple(_reviewed(group, loaded.is_tuned) for group in groups)
    return Submission(kind="records", rows=rows, findings=tuple(findings), has_items=items)


def _reviewed(group: Group, is_tuned: bool) -> Reviewed:
    first = group.first
    method = dict(first.record.recipe.get("method") or {}) if first.record else {}
    ended = "" if group.ok else f"{group.status}: {first.reason}".strip(": ")
    return Reviewed(
        name=group.label,
        method=first.method,
        rate=learning_rate(first),
        scale=effective_scale(method),
        seeds=len(group.rows) + len(group.lost) if group.trained else None,
        scores=dict(_scores(group)) if group.ok else {},
        status=ended,
        is_base=first.is_base,
        rate_was_tuned=True if is_tuned else None,
        repeats=repeats(
            [
                tuple(filter(None, row.record.training.losses))
                for row in group.rows
                if row.record and row.record.training
            ]
        ),
    )


def _scores(group: Group) -> Iterator[tuple[str, Score]]:
    for scores in group.evaluations.values():
        metric = headline(scores[0])
        if metric is None:
            continue
        entry = scores[0].record.metrics[metric]
        share = entry.higher_is_better and 0 <= entry.value <= 1
        values = [scored.record.metrics[metric].value for scored in scores]
        yield (
            scores[0].task,
            Score(
                value=sum(values) / len(values),
                share=share and scores[0].items is not None,
                items=scores[0].record.num_items,
                error=None if len(scores) > 1 else entry.stderr,
            ),
        )


def _lost(groups: Sequence[Group]) -> Iterator[Finding]:
    """Yield the seeds without a result of methods that have others: their scores are of those that ended well."""
    for group in groups:
        for row in group.lost if group.ok else ():
            yield Finding(
                check="status",
                text=f"{row.label} seed {row.seed} has no result ({row.status or 'missing'}: {row.reason}), and the "
                "scores are of the other seeds",
                rows=(group.label,),
            )


def _copies(groups: Sequence[Group]) -> Iterator[Finding]:
    """Yield runs of different methods with the same outcome on every item, where two runs would differ in some."""
    seen: dict[object, tuple[Group, Row]] = {}
    for group, row in ((own, run) for own in groups if own.trained for run in own.rows):
        columns = [
            (scored.record.eval_id, name, values)
            for scored in sorted(row.scored, key=lambda scored: scored.record.eval_id)
            for name, values in sorted(scored.items.outcomes.items() if scored.items else ())
        ]
        if not any(map(_tells_apart, [values for _, _, values in columns])):
            continue
        key = tuple((eval_id, name, values.tobytes()) for eval_id, name, values in columns)
        first, other = seen.setdefault(key, (group, row))
        if first is not group:
            names = f"{first.label} seed {other.seed} and {group.label} seed {row.seed}"
            text = f"{names} have the same outcome on every item of every task: one run twice?"
            yield Finding(check="identical", text=text, rows=(first.label, group.label))


def _tells_apart(values: Floats) -> bool:
    """Return whether no two runs have these outcomes by chance: likelihoods, or right and wrong on many items."""
    if bool(((values != 0) & (values != 1)).any()):
        return True
    return len(values) >= _MANY_ITEMS and 0 < float(values.mean()) < 1


def _differences(guard: Guard) -> Iterator[Finding]:
    for entry in guard.refused:
        rows = tuple(name for _, names in entry.values for name in names)
        yield Finding(check="settings", text=f"differs and was not declared to vary: {entry}", rows=rows)


def _of_trials(loaded: Loaded) -> Iterator[Finding]:
    trials = check_trials(loaded)
    for entry in trials.refused if trials else ():
        yield Finding(check="settings", text=f"trials differ in what was not tuned: {entry}")
    tested = [row for row in loaded.trials if any(scored.role in ("target", "test") for scored in row.scored)]
    if tested:
        yield Finding(
            check="chosen-on-test",
            text=f"{len(tested)} trials of the tuning have scores on the test: {_named(tested)}",
            rows=tuple(row.label for row in tested),
        )
    for contestant in tuning.contestants(loaded.sweep, loaded.trials):
        if contestant.edges:
            edges = several([f"{edge.setting}={edge.value}" for edge in contestant.edges], 4)
            yield Finding(
                check="undertuned",
                text=f"{contestant.name} was chosen at the edge of what was tried ({edges}): a better value may lie "
                "beyond it",
                rows=(contestant.name,),
            )


def _of_files(loaded: Loaded) -> Iterator[Finding]:
    for line in contradicted(loaded.rows):
        yield Finding(check="contradicted", text=line)
    for row in loaded.rows:
        if row.test_reads > 1:
            yield Finding(
                check="chosen-on-test",
                text=f"{row.label} seed {row.seed}: the test was read {row.test_reads} times, for other weights each",
                rows=(row.label,),
            )
    for problem in loaded.unreadable:
        yield Finding(check="unreadable", text=f"could not be read: {problem}")


def _named(rows: Sequence[Row]) -> str:
    return several(list(dict.fromkeys(f"{row.label} seed {row.seed}" for row in rows)), 6)
