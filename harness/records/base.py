"""Base of all schemas, and the strict reading of plain data by one. Needs the standard library and pydantic only."""

import json
from functools import cache
from typing import Any, TypeVar, cast

from pydantic import ConfigDict, TypeAdapter

T = TypeVar("T")


class Strict:
    """Base of the schemas: an unknown key and a value of another type are refused, and no field is filled in."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@cache
def adapter(schema: Any) -> TypeAdapter[Any]:
    """Return pydantic's adapter of a schema, built once: building takes longer than using it."""
    return TypeAdapter(schema)


def parsed(schema: type[T], data: Any) -> T:
    """Return plain data, as a JSON or YAML file holds them, as an object of the schema.

    Raises:
        pydantic.ValidationError: they do not fit; `TypeError` of what JSON cannot hold.
    """
    return cast(T, adapter(cast(Any, schema)).validate_json(json.dumps(data), strict=True))


def first_line(error: BaseException) -> str:
    """Return the first line of an error's text; the name of its class if it has none."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
