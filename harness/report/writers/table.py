"""Rows as flat columns of raw numbers: units are in the names, an unknown value is None and an empty cell."""

import csv
import io
from collections.abc import Mapping, Sequence
from typing import Any

from harness.report.analysis import hours, use
from harness.report.analysis.doubts import of_attempt
from harness.report.data.items import Scored
from harness.report.data.rows import Row

Value = str | int | float | None
COLUMNS = (
    "method",
    "seed",
    "status",
    "reason",
    "recipe_id",
    "trainable_parameters",
    "total_parameters",
    "peak_memory_bytes",
    "tokens_per_second",
    "train_seconds",
    "flops_per_second",
    "utilisation",
    "train_energy_joules",
    "device_hours",
    "tuning_device_hours",
    "cost",
    "timing_doubts",
    "validation_loss",
    "test_loss",
)
REQUIRED = "required_memory_bytes"


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """The fixed columns, then one per task and metric in the order in which the rows name them."""
    named = task_names(rows)
    scores: dict[str, None] = {}
    for task in dict.fromkeys(named.values()):
        scored = [s for row in rows for s in row.scored if not s.heldout and named[task_key(s)] == task]
        scores.update(dict.fromkeys(f"{task}/{metric}" for s in scored for metric in sorted(s.record.metrics)))
        if len({s.record.num_fewshot for s in scored}) > 1:
            scores[f"{task}/num_fewshot"] = None  # otherwise two rows of one run would look alike
    if any(scored.weights != "attached" for row in rows for scored in row.scored):
        scores["weights"] = None  # for the same reason
    if any(row.current and row.current.required_memory_bytes is not None for row in rows):
        scores[REQUIRED] = None  # only for runs on a GPU
    return (*COLUMNS, *scores, *use.columns(rows))


def flat(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """One dictionary per row, with the same keys in every row: those of `columns`."""
    empty = dict.fromkeys(columns(rows))
    named = task_names(rows)
    return [{**empty, **_run(row), **_scores(row, named, empty), **use.flat(row)} for row in rows]


def to_csv(rows: Sequence[Row]) -> str:
    """The flat table as comma-separated values with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=columns(rows), lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(rows))
    return text.getvalue()


def task_key(scored: Scored) -> tuple[str, Any]:
    """Return the key of the column of a score: the task and its limit."""
    return scored.task, scored.record.evaluation["limit"]


def task_names(rows: Sequence[Row]) -> dict[tuple[str, Any], str]:
    """Each evaluated task's column name: with its limit only where the rows have the task with several."""
    keys = list(dict.fromkeys(task_key(s) for row in rows for s in row.scored if not s.heldout))
    tasks = [task for task, _ in keys]
    return {
        (task, limit): f"{task}[limit={'all' if limit is None else limit}]" if tasks.count(task) > 1 else task
        for task, limit in keys
    }


def _run(row: Row) -> dict[str, Value]:
    """Return the columns of the run itself."""
    attempt = row.current
    fingerprint = attempt.fingerprint if attempt else None
    training = attempt.training if attempt else None
    trained = attempt.phases.get("train") if attempt else None
    return {
        "method": row.method,
        "seed": row.seed,
        "status": row.status,
        "reason": row.reason or None,
        "recipe_id": row.recipe_id,
        "trainable_parameters": fingerprint.trainable_parameters if fingerprint else None,
        "total_parameters": fingerprint.total_parameters if fingerprint else None,
        "peak_memory_bytes": attempt.peak_memory_bytes if attempt else None,
        "tokens_per_second": training.tokens_per_second if training else None,
        "train_seconds": training.train_seconds if training else None,
        "flops_per_second": training.flops_per_second if training else None,
        "utilisation": training.utilisation if training else None,
        "train_energy_joules": trained.energy_joules if trained else None,
        "device_hours": hours.of_run(row),
        "tuning_device_hours": hours.of_tuning(row),
        "cost": hours.cost(row),
        "timing_doubts": "; ".join(of_attempt(attempt)) or None,
    }


def _scores(row: Row, named: Mapping[tuple[str, Any], str], known: Mapping[str, Value]) -> dict[str, Value]:
    """The scores of the row's evaluations; the held-out loss is a column of its own, its perplexity is exp(loss)."""
    values: dict[str, Value] = {"weights": row.scored[0].weights} if row.scored and "weights" in known else {}
    if REQUIRED in known:
        values[REQUIRED] = row.current.required_memory_bytes if row.current else None
    for scored in row.scored:
        if scored.heldout:
            loss = scored.record.metrics.get("loss")
            values[f"{scored.role}_loss"] = loss.value if loss else None
            continue
        task = named[task_key(scored)]
        values.update({f"{task}/{metric}": score.value for metric, score in scored.record.metrics.items()})
        if f"{task}/num_fewshot" in known:
            values[f"{task}/num_fewshot"] = scored.record.num_fewshot
    return values
