"""One evaluation with its items, which are read only when a paired number needs them, and their outcomes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records.record import EvaluationRecord

if TYPE_CHECKING:
    import numpy
    from numpy.typing import NDArray

    from harness.stats import Floats

    Mask = NDArray[numpy.bool_]


PREFIX = "metric/"
_READ = ("item_id", "prompt_hash", "num_tokens", "task", "cluster")
NLL = "nll"  # the item column of a held-out loss
_ROUNDING = 1e-6  # of a score: the sum of its items in another order


@dataclass(frozen=True)
class Items:
    """Outcomes per item, in the order of the item ids; `num_tokens` weighs the items of a held-out loss.

    `tasks` names the task of each item in a group of tasks, and `clusters` what items share (a passage, a prompt).
    """

    ids: tuple[str, ...]
    prompt_hashes: tuple[str, ...]
    outcomes: dict[str, Floats]
    num_tokens: Floats | None
    tasks: tuple[str, ...] | None = None
    clusters: tuple[str, ...] | None = None

    @property
    def asked(self) -> tuple[Any, ...]:
        """Return the identity of the questions: the items, their prompts and the answer tokens of a loss."""
        tokens = None if self.num_tokens is None else tuple(self.num_tokens)
        return self.ids, self.prompt_hashes, tokens

    @cached_property
    def shared(self) -> tuple[str, ...] | None:
        """The cluster of each item: that of its record, else its prompt; None where every item stands alone."""
        if self.clusters is not None:
            return self.clusters
        return self.prompt_hashes if len({*self.prompt_hashes}) < len(self.prompt_hashes) else None

    @cached_property
    def asked_digest(self) -> str:
        """Return a digest of `asked`, since items are compared with those of many other runs."""
        return hashlib.sha256(repr(self.asked).encode()).hexdigest()


@dataclass(frozen=True)
class ScoredEvaluation:
    """An evaluation record and the file of its items."""

    record: EvaluationRecord
    path: Path = field(repr=False)  # of the items; the digest of a report is made of the repr, without this place
    shown: str  # the path as a report names it

    @property
    def task(self) -> str:
        """The task's name."""
        return str(self.record.evaluation["task"])

    @property
    def role(self) -> str:
        """Return the role of the score: target, retention, validation or test."""
        return str(self.record.evaluation["role"])

    @property
    def heldout(self) -> bool:
        """Return whether this is the answer loss on held-out rows, not an official task."""
        return bool(self.record.evaluation["kind"] == "heldout")

    @property
    def loss_only(self) -> bool:
        """Return whether this is a loss, on held-out rows or on general text, without a score that should be high."""
        return self.record.evaluation["kind"] in ("heldout", "text")

    @property
    def comparison_key(self) -> str:
        """Return the identity of the questions for every kind of weights alike. Equal ids are comparable."""
        return self.record.eval_id.removesuffix(f"-{self.weights}")

    @property
    def weights(self) -> str:
        """Return the weights that answered: attached, merged or converted-r16; older records are of attached ones."""
        return str(self.record.evaluation.get("weights", "attached"))

    @property
    def items(self) -> Items | None:
        """The items, or None where they cannot be read: `problem` says why."""
        return self._read[0]

    @property
    def problem(self) -> str:
        """Return the reason why there are no items; "" when there are."""
        return self._read[1]

    @cached_property
    def _read(self) -> tuple[Items | None, str]:
        try:
            return read_items(self.path, self.record.num_items), ""
        except FileNotFoundError:
            return None, f"{self.shown}: the items of {self.task} are not there"
        except (OSError, ValueError) as error:  # pyarrow's own errors are one or the other
            return None, f"{self.shown}: {str(error).splitlines()[0]}"


def read_items(path: Path, expected: int) -> Items:
    """The items of one evaluation, sorted by id.

    Raises:
        FileNotFoundError: there is no such file.
        ValueError: damaged, a column is missing, an id occurs twice or not every item is there.
    """
    from pyarrow import parquet

    if not path.is_file():
        raise FileNotFoundError(path)
    with parquet.ParquetFile(path) as file:
        names = [n for n in file.schema_arrow.names if n.startswith(PREFIX) or n in _READ]
        columns: dict[str, list[Any]] = file.read(columns=names).to_pydict()
    if missing := {"item_id", "prompt_hash"} - columns.keys():
        raise ValueError(f"the items have no column {', '.join(sorted(missing))}")
    ids = [str(value) for value in columns["item_id"]]
    if len(ids) != expected or len(set(ids)) != len(ids):
        raise ValueError(f"{len(ids)} items, {len(set(ids))} of them different: the record counts {expected}")
    order = sorted(range(len(ids)), key=ids.__getitem__)
    outcomes = {n.removeprefix(PREFIX): _floats(columns[n], order) for n in names if n.startswith(PREFIX)}
    return Items(
        ids=tuple(ids[i] for i in order),
        prompt_hashes=tuple(str(columns["prompt_hash"][i]) for i in order),
        outcomes={name: values for name, values in outcomes.items() if values is not None},
        num_tokens=_floats(columns["num_tokens"], order) if "num_tokens" in columns else None,
        tasks=_texts(columns.get("task"), order),
        clusters=_texts(columns.get("cluster"), order),
    )


def read_columns(path: Path, names: Sequence[str]) -> dict[str, list[Any]]:
    """Read the named columns that a file has, in the order of `read_items`; {} for a damaged file."""
    from pyarrow import parquet

    try:
        with parquet.ParquetFile(path) as file:
            present = [name for name in names if name in file.schema_arrow.names]
            columns: dict[str, list[Any]] = file.read(columns=["item_id", *present]).to_pydict()
    except (OSError, ValueError):  # pyarrow's own errors are one or the other
        return {}
    ids = [str(value) for value in columns.pop("item_id")]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    return {name: [values[i] for i in order] for name, values in columns.items()}


def _texts(values: list[Any] | None, order: list[int]) -> tuple[str, ...] | None:
    """Return the values in the given order; None without the column, or where a value is unknown."""
    return None if values is None or None in values else tuple(str(values[i]) for i in order)


def _floats(values: list[Any], order: list[int]) -> Floats | None:
    """Return the values in the given order; None if any is missing, since the mean of the others would differ."""
    import numpy as np

    if any(value is None for value in values):
        return None
    array = np.array([float(values[i]) for i in order], dtype=np.float64)
    return array if np.isfinite(array).all() else None


def same_items(scored: Sequence[ScoredEvaluation]) -> bool:
    """Return whether all have the same items with the same prompts and, for a loss, the same answer tokens."""
    keys = {score.items.asked_digest for score in scored if score.items}
    return len(keys) == 1 and all(score.items for score in scored)


def matrix(scored: Sequence[ScoredEvaluation], metric: str, among: Mask | None = None) -> Floats | None:
    """Return outcomes of shape (seeds, items); None where a seed has other items, or none that give its score.

    Args:
        scored: the evaluation of each seed.
        metric: its metric.
        among: for each item whether it is taken; None takes all.
    """
    import numpy as np

    if not scored or not same_items(scored):
        return None
    columns = [column for score in scored if (column := outcomes_of(score, metric, among)) is not None]
    return np.stack(columns) if len(columns) == len(scored) else None


def outcomes_of(scored: ScoredEvaluation, metric: str, among: Mask | None = None) -> Floats | None:
    """Return outcomes whose mean (over tokens for a held-out loss) is the score; None where the items do not give it.

    A group of tasks may be scored by the mean over its tasks instead of over its items (lm-eval's
    `weight_by_size: false`): the outcomes are then scaled, so that every task weighs the same. With `among` the
    outcomes are those of these items alone, and their mean is the score on them.
    """
    items, metric_of = scored.items, scored.record.metrics.get(metric)
    column = items.outcomes.get(NLL if metric == "loss" and scored.heldout else metric) if items else None
    if items is None or column is None or metric_of is None:
        return None
    for candidate in (column, _equal_tasks(column, items.tasks)):
        gap = None if candidate is None else abs(_mean(candidate, weights([scored])) - metric_of.value)
        if candidate is not None and gap is not None and gap <= _ROUNDING * max(1.0, abs(metric_of.value)):
            if among is None:
                return candidate
            tasks = items.tasks and tuple(task for task, taken in zip(items.tasks, among, strict=True) if taken)
            scaled = None if candidate is column else _equal_tasks(column[among], tasks)
            return column[among] if scaled is None else scaled
    return None


def weights(scored: Sequence[ScoredEvaluation]) -> Floats | None:
    """Return the answer tokens of a held-out loss; None for a plain mean over the items."""
    items = scored[0].items
    return items.num_tokens if scored[0].heldout and items else None


def clusters(scored: Sequence[ScoredEvaluation]) -> tuple[str, ...] | None:
    """Return the cluster of each item (its passage, prompt or document); None where every item stands alone."""
    items = scored[0].items
    return items.shared if items else None


def contradictions(scored: ScoredEvaluation) -> Iterator[tuple[str, float, float]]:
    """Yield (metric, value in the record, mean of the items) for each metric that its items do not give."""
    items = scored.items
    for metric, stated in scored.record.metrics.items() if items else ():
        assert items is not None
        column = items.outcomes.get(NLL if metric == "loss" and scored.heldout else metric)
        if column is not None and outcomes_of(scored, metric) is None:
            yield metric, stated.value, _mean(column, weights([scored]))


def _equal_tasks(column: Floats, tasks: tuple[str, ...] | None) -> Floats | None:
    """Return the outcomes scaled so that their mean is the mean over the tasks; None with a single task."""
    import numpy as np

    if tasks is None or len(set(tasks)) < 2:
        return None
    names, place = np.unique(np.array(tasks), return_inverse=True)
    sizes = np.bincount(place)
    return np.asarray(column * (len(column) / (len(names) * sizes[place])), dtype=np.float64)


def _mean(column: Floats, below: Floats | None) -> float:
    return float(column.mean() if below is None else column.sum() / below.sum())
