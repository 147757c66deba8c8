"""Cost of using a result: the base, the update attached, the update merged; as tables and as flat columns."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from harness.records.record import InferenceRecord, Served
from harness.report.data.groups import Group
from harness.report.data.rows import Row
from harness.report.display import DASH, MEBIBYTE, mean, quantity
from harness.report.document import Table, text_table

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
    known = [group for group in groups if group.ok and any(row.inference for row in group.rows)]
    if not known:
        return []
    speeds = [line for group in known for line in _speeds(group)]
    header = ("Method", "Model", "Rows", "First token, ms", "Tokens/s", "Weights, MiB", "Peak memory, MiB")
    beside = [_beside(group) for group in known if group.trained]
    further = ("Method", "Same answers", "Empty", "Looping", "Further adapter, MiB", "Changing, ms", "Remarks")
    found = [text_table("Inference cost", header, speeds, ("Model",))]
    return [*found, text_table("Merging and further adapters", further, beside)] if beside else found


def columns(rows: Sequence[Row]) -> list[str]:
    """The flat columns that some row fills."""
    return list(dict.fromkeys(name for row in rows for name in flat(row)))


def flat(row: Row) -> dict[str, float | int | None]:
    """A run's numbers by their columns: `inference/<model>/<rows>_rows/...`."""
    found = row.inference
    if found is None:
        return {}
    values: dict[str, float | int | None] = {}
    for name, served in found.served.items():
        values[f"inference/{name}/weight_bytes"] = served.weight_bytes
        values[f"inference/{name}/peak_memory_bytes"] = served.peak_memory_bytes
        for speed in served.speeds:
            prefix = f"inference/{name}/{speed.batch_size}_rows"
            values[f"{prefix}/time_to_first_token_seconds"] = speed.time_to_first_token_seconds
            values[f"{prefix}/tokens_per_second"] = speed.tokens_per_second
    if found.further is not None:
        values["inference/bytes_per_further_adapter"] = found.further.bytes_per_adapter
        values["inference/switch_seconds"] = found.further.switch_seconds
    if found.equal_outputs is not None:
        values["inference/equal_outputs"] = found.equal_outputs
        values["inference/num_outputs"] = found.served["attached"].num_outputs
    return values


def _speeds(group: Group) -> Iterable[tuple[str, ...]]:
    """A line for each model and batch size, means over the seeds."""
    found = [row.inference for row in group.rows if row.inference]
    for name in sorted(found[0].served, key=MODELS.index):
        several = [one.served[name] for one in found if name in one.served]
        for i, speed in enumerate(several[0].speeds):
            first = mean(one.speeds[i].time_to_first_token_seconds for one in several)
            peak = mean(one.peak_memory_bytes for one in several)
            yield (
                group.name,
                name,
                str(speed.batch_size),
                quantity(None if first is None else first * MILLI),
                quantity(mean(one.speeds[i].tokens_per_second for one in several)),
                quantity((mean(one.weight_bytes for one in several) or 0) / MEBIBYTE),
                quantity(None if peak is None else peak / MEBIBYTE),
            )


def _beside(group: Group) -> tuple[str, ...]:
    found = [row.inference for row in group.rows if row.inference]
    attached = [one.served["attached"] for one in found if "attached" in one.served]
    held = mean(one.further.bytes_per_adapter if one.further else None for one in found)
    seconds = mean(one.further.switch_seconds if one.further else None for one in found)
    reasons = [(f"{name}: {reason}" for name, reason in one.unmeasured.items()) for one in found]
    remarks = dict.fromkeys(
        text for one, own in zip(found, reasons, strict=True) for text in (one.unmerged_reason, one.alone_reason, *own)
    )
    remarks.pop("", None)
    return (
        group.name,
        _same(found),
        _outputs(attached, "empty_outputs"),
        _outputs(attached, "looping_outputs"),
        quantity(None if held is None else held / MEBIBYTE),
        quantity(None if seconds is None else seconds * MILLI),
        "; ".join(remarks) or DASH,
    )


def _same(found: Sequence[InferenceRecord]) -> str:
    known = [(one.equal_outputs, one.served["attached"].num_outputs) for one in found if one.equal_outputs is not None]
    return f"{sum(equal for equal, _ in known)} of {sum(every for _, every in known)}" if known else DASH


def _outputs(attached: Sequence[Served], name: str) -> str:
    return f"{sum(getattr(one, name) for one in attached)} of {sum(one.num_outputs for one in attached)}"
