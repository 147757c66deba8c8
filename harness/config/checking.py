"""Validation of values against a schema, as strict JSON; errors name the setting as on the command line."""

import json
import math
from functools import cache
from typing import Any

from pydantic import TypeAdapter, ValidationError

from harness.methods.targets import PRESETS


@cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """Return the adapter of a schema, built once: building takes longer than using it."""
    return TypeAdapter(schema)


def check_finite(value: Any, name: str) -> None:
    """Refuse NaN and infinity, which neither JSON nor an identity can hold.

    Raises:
        ValueError: names the setting.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: must be a finite number")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        check_finite(part, f"{name}.{key}")


def explained(error: ValidationError, values: Any, section: str, allowed: list[str]) -> str:
    """Return the first error, with the setting's name on the command line."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    path, value = [section], values
    for part in first["loc"]:
        if isinstance(value, dict) and part in value:
            path, value = [*path, str(part)], value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = [f"{'.'.join(path)}[{part}]"], value[part]
    name = ".".join(path)
    if first["type"] == "missing":
        return f"{section}.{first['loc'][-1]}: missing; give it a value"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{name}: no such setting. {section} has {', '.join(allowed)}"
    if name.startswith("method.target"):
        presets = ", ".join(PRESETS)
        return f"target={json.dumps(value)}: must be one of {presets}, a list of module names, or 're:<expression>'"
    if first["type"] in ("tuple_type", "list_type"):
        one = "" if value is None else value
        return f"{name}={json.dumps(value)}: must be a list, as in {name}=[{one}]"
    return f"{name}={json.dumps(value)}: {lower(first['msg'])}"


def lower(text: str) -> str:
    """Return a message of pydantic's as the end of a sentence."""
    return (text[:1].lower() + text[1:]).replace("input should be", "must be")
