"""Identities of settings and rows: canonical JSON, its hash, a recipe's keys, the fields behind examples."""

import dataclasses
import hashlib
import json
from collections.abc import Iterable
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


_KEYS = {  # of a recipe, by the settings that stand for them
    "target": "method.target",
    **dict.fromkeys(("data.file", "data.test_file", "data.path", "data.source"), "data"),
    **dict.fromkeys(
        ("model.path", "model.source", "model.hub_id", "model.revision", "model.package", "model.file"), "model"
    ),
}


def recipe_keys(settings: Iterable[str]) -> tuple[str, ...]:
    """Return settings by their keys in a recipe. A key stands for all below it; seeds are not part of a recipe.

    A method has its own learning rate, so that varying the method also varies the rate. A setting that says where a
    model or data come from stands for all that is known of them: a recipe knows their content, and no place.
    """
    keys: dict[str, None] = {}
    for setting in settings:
        if setting != "lr_scale":
            keys[_KEYS.get(setting, setting)] = None
        if setting in ("method", "method.lr", "lr_scale"):
            keys["train.lr"] = None
    return tuple(key for key in keys if key != "seed")


def covered(key: str, declared: Iterable[str]) -> bool:
    """Return whether a recipe's key is declared, or lies below a declared one."""
    return any(key == entry or key.startswith(f"{entry}.") for entry in declared)
