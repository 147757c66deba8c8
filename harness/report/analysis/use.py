"""Cost of using a result: the base, the update attached, the update merged; as tables and as flat columns."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from harness.records.record import InferenceRecord, Served
from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import MEBIBYTE, mean
from harness.report.document import Cell, Column, Missing, Number, Table, Text

MILLI = 1000
MODELS = ("plain", "attached", "merged")
TEXT = (
    "plain is the base as it is. Every row of a batch has the same number of prompt tokens and gets the same number of "
    "new ones, greedily; medians, after one round that does not count. The rate is that of all rows together, over the "
    "whole time, first token included. Same answers: held-out prompts to which the merged model writes token for token "
    "what the attached one does. A further adapter is a second one of the same kind on one base; changing is PEFT's "
    "set_adapter."
)


def tables(groups: Sequence[Group]) -> list[Table]:
    """Tabulate speed and memory of each model, and the cost of merging and of further adapters; [] if unmeasured."""
    measured = [group for group in groups if group.ok and any(row.inference for row in group.rows)]
    columns = (
        Column("method", "Method", text=True),
        Column("model", "Model", text=True),
        Column("rows", "Rows", digits=0),
        Column("first_token", "First token", "ms", MILLI),
        Column("tokens_per_second", "Tokens/s"),
        Column("weight_bytes", "Weights", "MiB", 1 / MEBIBYTE),
        Column("peak_memory_bytes", "Peak memory", "MiB", 1 / MEBIBYTE),
    )
    speeds = tuple(row for group in measured for row in _speeds(group))
    beside = (
        Column("method", "Method", text=True),
        *(Column(title.lower().replace(" ", "_"), title) for title in ("Same answers", "Empty", "Looping")),
        Column("adapter_bytes", "Further adapter", "MiB", 1 / MEBIBYTE),
        Column("switch_seconds", "Changing", "ms", MILLI),
        Column("remarks", "Remarks", text=True),
    )
    further = tuple(_beside(group) for group in measured if group.trained)
    made = (
        Table(columns, speeds, label="inference_cost", title="Inference cost"),
        Table(beside, further, label="merging", title="Merging and further adapters"),
    )
    return [table for table in made if table.rows]


def columns(rows: Sequence[Row]) -> list[str]:
    """The flat columns that some row fills."""
    return list(dict.fromkeys(name for row in rows for name in flat(row)))


def flat(row: Row) -> dict[str, float | int | None]:
    """A run's numbers by their columns: `inference/<model>/<rows>_rows/...`."""
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


def _speeds(group: Group) -> Iterator[tuple[Cell, ...]]:
    """Yield a row for each model and batch size, means over the seeds."""
    measured = [row.inference for row in group.rows if row.inference]
    for name in sorted(measured[0].served, key=MODELS.index):
        served = [record.served[name] for record in measured if name in record.served]
        for i, speed in enumerate(served[0].speeds):
            values = (
                mean(model.speeds[i].time_to_first_token_seconds for model in served),
                mean(model.speeds[i].tokens_per_second for model in served),
                mean(model.weight_bytes for model in served),
                mean(model.peak_memory_bytes for model in served),
            )
            yield (Text(group.name, group.label), Text(name), Number(speed.batch_size), *map(_number, values))


def _beside(group: Group) -> tuple[Cell, ...]:
    measured = [row.inference for row in group.rows if row.inference]
    attached = [record.served["attached"] for record in measured if "attached" in record.served]
    remarks: dict[str, None] = {}
    for record in measured:
        unmeasured = (f"{name}: {reason}" for name, reason in record.unmeasured.items())
        remarks |= dict.fromkeys((record.unmerged_reason, record.alone_reason, *unmeasured))
    remarks.pop("", None)
    return (
        Text(group.name, group.label),
        _same(measured),
        _outputs(attached, "empty_outputs"),
        _outputs(attached, "looping_outputs"),
        _number(mean(record.further.bytes_per_adapter if record.further else None for record in measured)),
        _number(mean(record.further.switch_seconds if record.further else None for record in measured)),
        Text("; ".join(remarks)) if remarks else Missing(),
    )


def _number(value: float | None) -> Cell:
    return Missing("not measured") if value is None else Number(value)


def _same(measured: Sequence[InferenceRecord]) -> Cell:
    checked = [record for record in measured if record.equal_outputs is not None]
    total = sum(record.served["attached"].num_outputs for record in checked)
    return Text(f"{sum(record.equal_outputs or 0 for record in checked)} of {total}") if checked else Missing()


def _outputs(attached: Sequence[Served], name: str) -> Cell:
    return Text(f"{sum(getattr(cost, name) for cost in attached)} of {sum(cost.num_outputs for cost in attached)}")
