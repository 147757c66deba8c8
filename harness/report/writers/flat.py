"""Rows as flat columns of raw numbers: CSV, Parquet and pandas frames.

Units are in the names of the columns; an unknown value is None, and an empty cell of a file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.records import untrusted
from harness.records.record import write_bytes
from harness.report.analysis import axes
from harness.report.data.items import PREFIX, ScoredEvaluation
from harness.report.data.rows import Loaded, Row, differing, learning_rate, settings_of

if TYPE_CHECKING:
    import pandas
    import pyarrow


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
_TEXT = (
    "label", "method", "model", "data", "status", "reason", "recipe_id", "timing_warnings", "recipe", "provenance",
    "started_at", "weights",
)  # fmt: skip
_COUNTS = ("seed", "trainable_parameters", "total_parameters", "peak_memory_bytes", "required_memory_bytes")
REQUIRED = "required_memory_bytes"


def columns(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the identity of a row, the settings in which rows differ, the fixed columns, and those of the tasks."""
    return (*IDENTITY, *differing(rows), *COLUMNS, *_score_columns(rows), *use_columns(rows))


def flat(rows: Sequence[Row]) -> list[dict[str, Value]]:
    """Return one dictionary per row, with the same keys in every row: those of `columns`."""
    empty = dict.fromkeys(columns(rows))
    named, varied = task_names(rows), differing(rows)
    return [
        {**empty, **_identity(row, varied), **_run(row), **_scores(row, named, empty), **use_flat(row)} for row in rows
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
    values = {key: settings.get(key) for key in varied}
    texts = {k: json.dumps(value, sort_keys=True) for k, value in values.items() if isinstance(value, (list, dict))}
    return {
        "label": row.label,
        "method": row.method,
        "model": settings.get("model.name"),
        "data": settings.get("data.name"),
        "learning_rate": learning_rate(row),
        **values,
        **texts,
    }


def _run(row: Row) -> dict[str, Value]:
    """Return the columns of the run itself."""
    return {
        "seed": row.seed,
        "status": row.status,
        "reason": row.reason or None,
        "recipe_id": row.recipe_id,
        **{name: read(row) for name, read in axes.QUANTITIES.items() if name in COLUMNS},
        "timing_warnings": "; ".join(axes.timing_doubts(row.current)) or None,
    }


def _scores(row: Row, named: Mapping[tuple[str, Any], str], named_values: Mapping[str, Value]) -> dict[str, Value]:
    """Return the scores of the row's evaluations; the held-out loss has columns of its own, its perplexity none."""
    values: dict[str, Value] = {"weights": row.scored[0].weights} if row.scored and "weights" in named_values else {}
    if REQUIRED in named_values:
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
        if f"{task}/num_fewshot" in named_values:
            values[f"{task}/num_fewshot"] = scored.record.num_fewshot
    return values


def write_parquet(rows: Sequence[Row], path: Path) -> Path:
    """Write the table."""
    import pyarrow
    from pyarrow import parquet

    sink = pyarrow.BufferOutputStream()
    parquet.write_table(arrow_table(rows), sink, compression="zstd", write_page_index=False)
    return write_bytes(sink.getvalue().to_pybytes(), path)


def arrow_table(rows: Sequence[Row]) -> pyarrow.Table:
    """Return the flat table, and the start, the recipe and the provenance of each row, the last two as JSON text."""
    import pyarrow

    values = flat(rows)
    for row, line in zip(rows, values, strict=True):
        line["started_at"] = row.current.started_at if row.current else None
        line["recipe"] = json.dumps(row.record.recipe, sort_keys=True) if row.record else None
        line["provenance"] = json.dumps(row.provenance, sort_keys=True) if row.current else None
    settings = differing(rows)
    arrays = {}
    for name in (*columns(rows), "started_at", "recipe", "provenance"):  # a column without values has the same type
        counts = name in _COUNTS or name.endswith(("/num_fewshot", "/n"))
        kind = pyarrow.string() if name in _TEXT else pyarrow.int64() if counts else pyarrow.float64()
        cells = [line[name] for line in values]
        cells = of_one_type(cells) if name in settings else cells
        arrays[name] = pyarrow.array(cells, type=None if name in settings else kind)
    return pyarrow.table(arrays)


def of_one_type(cells: Sequence[Any]) -> list[Any]:
    """Return the values of a column, those of several types as text; whole numbers and others are of one."""
    kinds = {float if type(cell) is int else type(cell) for cell in cells if cell is not None}
    if len(kinds) < 2:
        return [*cells]
    return [cell if cell is None or isinstance(cell, str) else json.dumps(cell) for cell in cells]


def frame(loaded: Loaded, items: bool = False) -> pandas.DataFrame:
    """Return records as a tidy frame.

    Args:
        loaded: the records.
        items: one row per run and item instead of one per run.

    Returns:
        One row per run with the columns of `records.parquet`; or one row per run, evaluation and item with `label`,
        `method`, `recipe_id`, `seed`, `task`, `role`, `eval_id`, `item_id`, `prompt_hash`, `num_tokens` (NaN where the
        items have none) and one `metric/<name>` column per metric, NaN where a task does not have it. Files that could
        not be read are listed in `.attrs["unreadable"]`.
    """
    made = _items(loaded) if items else arrow_table(loaded.rows).to_pandas()
    problems = [scored.problem for row in loaded.rows for scored in row.scored if scored.problem] if items else []
    made.attrs["unreadable"] = [*loaded.unreadable, *problems]
    return made


def _items(loaded: Loaded) -> pandas.DataFrame:
    import pandas

    parts = []
    for row in loaded.rows:
        for scored in row.scored:
            if scored.items is None:
                continue
            outcomes = {f"{PREFIX}{name}": values for name, values in scored.items.outcomes.items()}
            beside = {"item_id": scored.items.ids, "prompt_hash": scored.items.prompt_hashes}
            part = pandas.DataFrame({**beside, "num_tokens": scored.items.num_tokens, **outcomes})
            config = {
                "label": row.label, "method": row.method, "recipe_id": row.recipe_id, "seed": row.seed,
                "task": scored.task, "role": scored.role, "eval_id": scored.record.eval_id,
            }  # fmt: skip
            for place, (name, value) in enumerate(config.items()):
                part.insert(place, name, value)
            parts.append(part.astype({"num_tokens": float}))
    return pandas.concat(parts, ignore_index=True) if parts else pandas.DataFrame()


def use_columns(rows: Sequence[Row]) -> list[str]:
    """Return the flat columns that some row fills."""
    return list(dict.fromkeys(name for row in rows for name in use_flat(row)))


def use_flat(row: Row) -> dict[str, float | int | None]:
    """Return the numbers of a run by their columns: `inference/<model>/<rows>_rows/...`."""
    inference = row.inference
    if inference is None:
        return {}
    values: dict[str, float | int | None] = {}
    for name, served in inference.served.items():
        values[f"inference/{name}/weight_bytes"] = served.weight_bytes
        values[f"inference/{name}/peak_memory_bytes"] = served.peak_memory_bytes
        for speed in served.speeds:
            prefix = f"inference/{name}/{speed.batch_size}_rows"
            values[f"{prefix}/time_to_first_token_seconds"] = speed.time_to_first_token_seconds
            values[f"{prefix}/tokens_per_second"] = speed.tokens_per_second
    if inference.further is not None:
        values["inference/bytes_per_further_adapter"] = inference.further.bytes_per_adapter
        values["inference/switch_seconds"] = inference.further.switch_seconds
    if inference.equal_outputs is not None:
        values["inference/equal_outputs"] = inference.equal_outputs
        values["inference/num_outputs"] = inference.served["attached"].num_outputs
    return values
