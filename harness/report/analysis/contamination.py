"""Scores without the evaluation items that occur in the training rows: what the contamination is worth.

The check of the data records which items share a run of words with a training row. They are left out for every method
and for the base model, so that differences stay paired.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import TYPE_CHECKING

from harness.report import names
from harness.report.analysis.claims import MetricComparison, contests
from harness.report.analysis.comparison import Comparison
from harness.report.data.groups import EQUAL, METHOD, Group
from harness.report.data.items import clusters, matrix, weights
from harness.report.data.rows import Loaded
from harness.report.document import Cell, Missing, Number, Table

if TYPE_CHECKING:
    from harness.report.data.items import Mask
    from harness.stats import SeedEstimate

_ROLES = ("target", "retention")


def clean_items(contest: MetricComparison, loaded: Loaded) -> Mask | None:
    """Return for each item of a contest whether it occurs in no training row; None where all or none of them do.

    An item's id is `leaf task:hash of its content:number` in evaluations and `leaf task:number` in checks of data.
    """
    import numpy as np

    left_out = {
        item
        for check in loaded.checks
        for overlap in check.contaminated
        if overlap.name == contest.task
        for item in overlap.found_ids or ()
    }
    scored = contest.groups[0].evaluations[contest.measure.eval_id][0] if contest.groups else None
    if not left_out or scored is None or scored.items is None:
        return None
    clean = np.array([_short(item) not in left_out for item in scored.items.ids])
    return clean if clean.any() and not clean.all() else None


def table(comparison: Comparison) -> Table | None:
    """Return the scores of every method without the contaminated items, and their change; None where there are none."""
    tasks = [*_contaminated(comparison)]
    if not tasks:
        return None
    columns = [METHOD]
    for contest, clean in tasks:
        title = f"{contest.column.title}, {int(clean.sum()):,} of {len(clean):,} items"
        columns.append(replace(contest.column, title=title))
        columns.append(replace(contest.gains, key=f"{contest.column.key}/change", title="Change"))
    rows = [
        (group.cell, *(cell for contest, clean in tasks for cell in _cells(group, contest, clean)))
        for group in comparison.ordered
        if group.ok
    ]
    caption = "Scores without the items that occur in the training rows, and their change against all items."
    title = "Scores without contaminated items"
    return Table(tuple(columns), tuple(rows), caption=caption, label="contamination", title=title)


def lines(comparison: Comparison) -> list[str]:
    """Return for each contaminated task how many items are concerned, and what changes without them."""
    by_task = {contest.task: (contest, clean) for contest, clean in _contaminated(comparison)}
    sentences: dict[str, str] = {}
    for check in comparison.loaded.checks:
        for overlap in check.contaminated:
            if overlap.name in by_task:
                sentences[overlap.name] = _effect(*by_task[overlap.name], comparison)
            elif overlap.found_ids is None and overlap.name in {contest.task for contest in _tasks(comparison)}:
                sentences[overlap.name] = (
                    f"{overlap.items_found:,} of {overlap.items:,} items of {names.task(overlap.name).display} "
                    f"{_occur(overlap.items_found)} in the training rows; which ones is not recorded, so that no score "
                    "without them can be given."
                )
    return [*sentences.values()]


def _effect(contest: MetricComparison, clean: Mask, comparison: Comparison) -> str:
    """Return the largest change of a score, and whether another method is best."""
    changes = [
        abs(estimate.value - whole.value)
        for group in comparison.groups
        if group.trained and (estimate := _score(group, contest, clean)) and (whole := group.score(contest.measure))
    ]
    ahead = contest.ranked[0]
    sign = 1 if contest.higher_is_better else -1
    estimates = ((group.label, _score(group, contest, clean)) for group in contest.ranked)
    scores = {label: round(estimate.value, EQUAL) for label, estimate in estimates if estimate}
    best = max(contest.ranked, key=lambda group: sign * scores.get(group.label, float("-inf")))
    who = f"; {best.name} is then best, not {ahead.name}" if best is not ahead and len(contest.ranked) > 1 else ""
    count = int((~clean).sum())
    most = contest.gain_shown(max(changes, default=0.0), signed=False)
    them = "it" if count == 1 else "them"
    return (
        f"{count:,} of {len(clean):,} evaluated items of {names.task(contest.task).display} {_occur(count)} in the "
        f"training rows. Without {them} no score of a method changes by more than {most}{who}."
    )


def _occur(count: int) -> str:
    return "occurs" if count == 1 else "occur"


def _contaminated(comparison: Comparison) -> Iterator[tuple[MetricComparison, Mask]]:
    """Yield each contaminated task once, with the items that are clean."""
    seen = set()
    for contest in _tasks(comparison):
        clean = clean_items(contest, comparison.loaded)
        if clean is not None and contest.measure not in seen:  # of several base models, the first one's
            seen.add(contest.measure)
            yield contest, clean


def _tasks(comparison: Comparison) -> list[MetricComparison]:
    return [contest for role in _ROLES for contest in contests(comparison.groups, role) if contest.groups]


def _cells(group: Group, contest: MetricComparison, clean: Mask) -> tuple[Cell, Cell]:
    estimate, whole = _score(group, contest, clean), group.score(contest.measure)
    if estimate is None or whole is None:
        return Missing("not evaluated on these items"), Missing("not evaluated on these items")
    return Number(estimate.value, estimate.standard_error), Number(estimate.value - whole.value, signed=True)


def _score(group: Group, contest: MetricComparison, clean: Mask) -> SeedEstimate | None:
    from harness.stats import clustered, over_seeds

    scored = group.evaluations.get(contest.measure.eval_id, ())
    if not scored or scored[0].items is None or len(scored[0].items.ids) != len(clean):
        return None
    values = matrix(scored, contest.measure.metric, clean)
    if values is None:
        return None
    sizes, shared = weights(scored), clusters(scored)
    among = None if shared is None else [label for label, taken in zip(shared, clean, strict=True) if taken]
    return over_seeds(*clustered(values, None if sizes is None else sizes[clean], among))


def _short(item_id: str) -> str:
    """Return an item's id without the hash of its content."""
    leaf, *_, number = item_id.rsplit(":", 2)
    return f"{leaf}:{number}"
