"""Rows as flat columns of raw numbers: units are in the names, an unknown value is None and an empty cell."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from harness.records import untrusted
from harness.report.analysis import hours, use
from harness.report.analysis.doubts import of_attempt
from harness.report.data.items import ScoredEvaluation
from harness.report.data.rows import Row
from harness.report.data.settings import differing, learning_rate, settings_of

Value = str | int | float | None
IDENTITY = ("label", "method", "model", "data", "learning_rate")
COLUMNS = (
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
    "mfu",
    "train_energy_joules",
    "device_hours",
    "tuning_device_hours",
    "cost",
    "timing_warnings",
    "validation_loss",
    "validation_loss_stderr",
    "validation/n",
    "test_loss",
    "test_loss_stderr",
    "test/n",
)
REQUIRED = "required_memory_bytes"


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the identity of a row, the settings in which rows differ, the fixed columns, and those of the tasks."""
    return (*IDENTITY, *differing(rows), *COLUMNS, *_score_columns(rows), *use.columns(rows))


def flat(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return one dictionary per row, with the same keys in every row: those of `columns`."""
    empty = dict.fromkeys(columns(rows))
    named, varied = task_names(rows), differing(rows)
    return [
        {**empty, **_identity(row, varied), **_run(row), **_scores(row, named, empty), **use.flat(row)} for row in rows
    ]


def to_csv(rows: Sequence[Row]) -> str:
    """Return the flat table as comma-separated values with a header."""
    return untrusted.to_csv(columns(rows), flat(rows))


def _score_columns(rows: Sequence[Row]) -> dict[str, None]:
    """Return the columns of each task in the order in which the rows name them: scores with their errors, then n."""
    named = task_names(rows)
    scores: dict[str, None] = {}
    for task in dict.fromkeys(named.values()):
        scored = [s for row in rows for s in row.scored if not s.heldout and named[task_key(s)] == task]
        metrics = [metric for s in scored for metric in sorted(s.record.metrics)]
        scores |= dict.fromkeys(f"{task}/{name}" for metric in metrics for name in (metric, f"{metric}_stderr"))
        scores[f"{task}/n"] = None
        if len({s.record.num_fewshot for s in scored}) > 1:
            scores[f"{task}/num_fewshot"] = None  # otherwise two rows of one run would look alike
    if any(scored.weights != "attached" for row in rows for scored in row.scored):
        scores["weights"] = None  # for the same reason
    if any(row.current and row.current.required_memory_bytes is not None for row in rows):
        scores[REQUIRED] = None  # only for runs on a GPU
    return scores


def task_key(scored: ScoredEvaluation) -> tuple[str, Any]:
    """Return the key of the column of a score: the task and its limit."""
    return scored.task, scored.record.evaluation["limit"]


def task_names(rows: Sequence[Row]) -> dict[tuple[str, Any], str]:
    """Return each evaluated task's column name: with its limit only where the rows have the task with several."""
    keys = list(dict.fromkeys(task_key(s) for row in rows for s in row.scored if not s.heldout))
    tasks = [task for task, _ in keys]
    return {
        (task, limit): f"{task}[limit={'all' if limit is None else limit}]" if tasks.count(task) > 1 else task
        for task, limit in keys
    }


def _identity(row: Row, varied: Sequence[str]) -> dict[str, Value]:
    """Return the columns that tell rows apart."""
    settings = settings_of(row)
    return {
        "label": row.label,
        "method": row.method,
        "model": settings.get("model.name"),
        "data": settings.get("data.name"),
        "learning_rate": learning_rate(row),
        **{key: _plain(settings.get(key)) for key in varied},
    }


def _plain(value: Any) -> Value:
    """Return a setting as a cell holds it: a list or a mapping as JSON."""
    return value if value is None or isinstance(value, (str, int, float)) else json.dumps(value, sort_keys=True)


def _run(row: Row) -> dict[str, Value]:
    """Return the columns of the run itself."""
    attempt = row.current
    fingerprint = attempt.fingerprint if attempt else None
    training = attempt.training if attempt else None
    trained = attempt.phases.get("train") if attempt else None
    return {
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
        "mfu": training.mfu if training else None,
        "train_energy_joules": trained.energy_joules if trained else None,
        "device_hours": hours.of_run(row),
        "tuning_device_hours": hours.of_tuning(row),
        "cost": hours.cost(row),
        "timing_warnings": "; ".join(of_attempt(attempt)) or None,
    }


def _scores(row: Row, named: Mapping[tuple[str, Any], str], known: Mapping[str, Value]) -> dict[str, Value]:
    """Return the scores of the row's evaluations; the held-out loss has columns of its own, its perplexity none."""
    values: dict[str, Value] = {"weights": row.scored[0].weights} if row.scored and "weights" in known else {}
    if REQUIRED in known:
        values[REQUIRED] = row.current.required_memory_bytes if row.current else None
    for scored in row.scored:
        if scored.heldout:
            loss = scored.record.metrics.get("loss")
            values[f"{scored.role}_loss"] = loss.value if loss else None
            values[f"{scored.role}_loss_stderr"] = loss.stderr if loss else None
            values[f"{scored.role}/n"] = scored.record.num_items
            continue
        task = named[task_key(scored)]
        for metric, score in scored.record.metrics.items():
            values |= {f"{task}/{metric}": score.value, f"{task}/{metric}_stderr": score.stderr}
        values[f"{task}/n"] = scored.record.num_items
        if f"{task}/num_fewshot" in known:
            values[f"{task}/num_fewshot"] = scored.record.num_fewshot
    return values
