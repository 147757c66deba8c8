"""Identities of settings and rows: canonical JSON, its hash, and the fields that determine a data set's examples."""

import dataclasses
import hashlib
import json
from typing import Any

from harness.records.settings import DataSpec, RowsSpec


def heldout_rows(data: DataSpec, max_length: int) -> str:
    """Return the identity of the held-out rows: the content, the prompt formats, the split and the longest row."""
    return digest(
        [
            data.content,
            [formats(data.train), formats(data.test)],
            data.validation_fraction,
            max_length,
            *choices(data).items(),
        ]
    )


def data_identity(data: DataSpec) -> dict[str, Any]:
    """Return the fields that determine the examples of a data configuration: content, formats, split, exclusions."""
    return {
        "content": data.content,
        "train": formats(data.train),
        "test": formats(data.test),  # rows that occur in a test are not trained on
        "validation_fraction": data.validation_fraction,
        "max_rows": data.max_rows,
        **({"resample": data.resample} if data.resample else {}),  # only where it is set: old recipes stay the same
        **choices(data),
    }


def formats(part: tuple[RowsSpec, ...]) -> list[dict[str, Any]]:
    """Return rows without the path of a local file, whose content is hashed, and without what makes no example."""
    return [_format(rows) for rows in part]


def _format(rows: RowsSpec) -> dict[str, Any]:
    unsaid = {"file", "revision", "topic", "license", "ignore"}
    unsaid |= {name for name, neutral in (("share", rows.share is None), ("format", rows.format == "auto")) if neutral}
    return {key: value for key, value in dataclasses.asdict(rows).items() if key not in unsaid}


def choices(data: DataSpec) -> dict[str, Any]:
    """Return the settings that decide about single rows, where they differ from the default.

    Defaults are left out, so that a new setting does not change the identity of old recipes. An "error" moves no
    row: either no row is left out, or no run is started.
    """
    names = ("split_by", "on_duplicate", "on_near_duplicate", "on_contradiction", "on_malformed", "on_empty")
    defaults = {field.name: field.default for field in dataclasses.fields(DataSpec)}
    chosen = {name: getattr(data, name) for name in names if getattr(data, name) not in (defaults[name], "error")}
    if data.template is not None:
        chosen["template"] = "model" if data.template == "model" else "file"  # its text is part of the content
    if data.mix:
        chosen["mix"] = formats(data.mix)
    return chosen


_ENCODER = json.JSONEncoder(sort_keys=True, allow_nan=False, separators=(",", ":"))


def canonical(value: Any) -> str:
    """Return JSON with sorted keys and no NaN: equal values give equal text."""
    return _ENCODER.encode(value)


def digest(value: Any) -> str:
    """Return the first eight hex digits of the SHA-256 of a JSON-safe value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:8]
