"""The outcomes of single items behind a score: which of them give it, their weights and their clusters."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from harness.report.data.items import Items, ScoredEvaluation

if TYPE_CHECKING:
    from harness.report.data.rows import Row
    from harness.stats import Floats

NLL = "nll"  # the item column of a held-out loss
_ROUNDING = 1e-6  # of a score: the sum of its items in another order


def same_items(scored: Sequence[ScoredEvaluation]) -> bool:
    """Return whether all have the same items with the same prompts and, for a loss, the same answer tokens."""
    keys = {score.items.asked_digest for score in scored if score.items}
    return len(keys) == 1 and all(score.items for score in scored)


def matrix(scored: Sequence[ScoredEvaluation], metric: str) -> Floats | None:
    """Return outcomes of shape (seeds, items); None where a seed has other items, or none that give its score."""
    import numpy as np

    if not scored or not same_items(scored):
        return None
    columns = [outcomes_of(score, metric) for score in scored]
    return (
        None
        if any(column is None for column in columns)
        else np.stack([column for column in columns if column is not None])
    )


def outcomes_of(scored: ScoredEvaluation, metric: str) -> Floats | None:
    """Return outcomes whose mean (over tokens for a held-out loss) is the score; None where the items do not give it.

    A group of tasks may be scored by the mean over its tasks instead of over its items (lm-eval's
    `weight_by_size: false`): the outcomes are then scaled, so that every task weighs the same.
    """
    items, metric_of = scored.items, scored.record.metrics.get(metric)
    column = items.outcomes.get(NLL if metric == "loss" and scored.heldout else metric) if items else None
    if items is None or column is None or metric_of is None:
        return None
    for candidate in (column, _equal_tasks(column, items)):
        if candidate is not None and _is_close(_mean(candidate, weights([scored])), metric_of.value):
            return candidate
    return None


def weights(scored: Sequence[ScoredEvaluation]) -> Floats | None:
    """Return the answer tokens of a held-out loss; None for a plain mean over the items."""
    items = scored[0].items
    return items.num_tokens if scored[0].heldout and items else None


def clusters(scored: Sequence[ScoredEvaluation]) -> tuple[str, ...] | None:
    """Return the cluster of each item (its passage, prompt or document); None where every item stands alone."""
    items = scored[0].items
    return items.clusters if items else None


def contradicted(rows: Sequence[Row]) -> list[str]:
    """Return a line for every score that its items do not give: either was edited, or the score is no mean."""
    return [line for row in rows for scored in row.scored for line in _contradicted(row, scored)]


def _contradicted(row: Row, scored: ScoredEvaluation) -> Iterator[str]:
    items = scored.items
    for metric, one in scored.record.metrics.items() if items else ():
        assert items is not None
        column = items.outcomes.get(NLL if metric == "loss" and scored.heldout else metric)
        if column is not None and outcomes_of(scored, metric) is None:
            mean = _mean(column, weights([scored]))
            yield (
                f"{row.title}, {scored.task} {metric}: the record says {one.value:.6g} and its items "
                f"give {mean:.6g}, so that nothing is claimed of it"
            )


def _equal_tasks(column: Floats, items: Items) -> Floats | None:
    """Return the outcomes scaled so that their mean is the mean over the tasks; None with a single task."""
    import numpy as np

    if items.tasks is None or len(set(items.tasks)) < 2:
        return None
    names, place = np.unique(np.array(items.tasks), return_inverse=True)
    sizes = np.bincount(place)
    return np.asarray(column * (len(column) / (len(names) * sizes[place])), dtype=np.float64)


def _mean(column: Floats, below: Floats | None) -> float:
    return float(column.mean() if below is None else column.sum() / below.sum())


def _is_close(a: float, b: float) -> bool:
    return abs(a - b) <= _ROUNDING * max(1.0, abs(b))
