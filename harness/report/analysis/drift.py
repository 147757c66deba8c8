"""Changes since a run was made: the program and its versions, and its scores where it was trained again."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from harness.records.record import EvaluationRecord, read
from harness.report import names
from harness.report.data.rows import Row
from harness.report.display import several, short

_NAMED = 3  # runs that a line names, of those that have the same to say
_PROGRAM = ("harness", "commit", "uncommitted_changes")


def replaced(folders: Sequence[Path]) -> tuple[EvaluationRecord, ...]:
    """The evaluations of the weights before the current ones, as they lie in `earlier/<n>/` of a run's folders.

    What cannot be read is left out: no number of a report rests on it.
    """
    evaluations: list[EvaluationRecord] = []
    for folder in folders:
        numbers = [int(path.name) for path in folder.glob("earlier/*") if path.name.isdecimal()]
        if numbers:
            evaluations += _readable(folder / "earlier" / str(max(numbers)))
    return tuple(evaluations)


def test_reads(folders: Sequence[Path], current: Sequence[EvaluationRecord]) -> int:
    """Return how many weights of a run have been tested: the present ones, and those in `earlier/<n>/`.

    A target task is a test as well as the held-out test rows are.
    """
    reads = int(any(_reads_test(sweep) for sweep in current))
    for folder in folders:
        for path in folder.glob("earlier/*"):
            reads += any(_reads_test(earlier) for earlier in _readable(path))
    return reads


def _reads_test(evaluation: EvaluationRecord) -> bool:
    return evaluation.evaluation.get("role") in ("test", "target")


def _readable(folder: Path) -> Iterator[EvaluationRecord]:
    for path in sorted(folder.glob("*.json")):
        with contextlib.suppress(OSError, ValueError):
            yield read(EvaluationRecord, path)


def lines(rows: Sequence[Row]) -> list[str]:
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
        f"made with another program than the sweep was last asked with: {several(list(runs), _NAMED)}: "
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
    scores = [text for old, new in pairs for text in _scores(old, new)]
    moved = dict.fromkeys(text for old, new in pairs for text in _changed(old.provenance, new.provenance))
    made_with = f"made with {', '.join(moved)}" if moved else "made with the same commit and versions"
    yield f"trained again: {row.title}: {', '.join(scores)}; {made_with}"


def _scores(old: EvaluationRecord, new: EvaluationRecord) -> Iterator[str]:
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
