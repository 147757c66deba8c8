"""Settings of rows, and the ones in which the rows differ."""

import json
from collections.abc import Sequence
from typing import Any

from harness.report.data.rows import Row, flatten

Settings = dict[str, Any]
OWN_COLUMNS = ("method.name", "method.lr", "model.name", "data.name", "train.lr")  # shown under shorter names


def settings_of(row: Row) -> Settings:
    """Return the settings of the row's recipe with dotted keys; {} without a record."""
    recipe = row.record.recipe if row.record else {}
    return flatten({part: recipe.get(part) or {} for part in ("method", "model", "data", "train")})


def differing(rows: Sequence[Row]) -> tuple[str, ...]:
    """Return the keys whose values differ between the rows with training: the rank, others of the method, the rest.

    A setting that only some rows have differs. The base model has none, and does not count.
    """
    trained = [settings_of(row) for row in rows if row.record and not row.is_base]
    every = dict.fromkeys(("method.r", *(key for settings in trained for key in settings)))
    keys = [key for key in every if key not in OWN_COLUMNS]
    return tuple(key for key in keys if len({value_key(settings.get(key)) for settings in trained}) > 1)


def learning_rate(row: Row) -> float | None:
    """Return the rate that the row was trained with."""
    rate = settings_of(row).get("train.lr")
    return None if rate is None else float(rate)


def value_key(value: Any) -> Any:
    """Return a hashable key of a value; 1, 1.0 and true have different keys."""
    plain = value is None or isinstance(value, (str, int, float))
    return (type(value), value) if plain else json.dumps(value, sort_keys=True)
