"""Redaction of secrets in records, logs and mirrored numbers before they are written. Standard library only.

A secret is the value of an environment variable whose name says so, wherever it stands; a value that follows such a
name in a command line, a URL, a header or a configuration; and a token of a form that some service gives out.
`secret_forms` has the names and forms.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import quote

from harness.records import secret_forms as forms

REMOVED = forms.REMOVED
_SHORTEST = 8  # of a value that is removed wherever it stands: shorter ones are words of a text as well, as in KEY=1


def text(content: str) -> str:
    """Return the text without its secrets."""
    return _text(content, _values(os.environ))


def anything(value: Any) -> Any:
    """Return the value with the secrets removed from every text in it."""
    return _anything(value, _values(os.environ))


def _text(content: str, secrets: list[str]) -> str:
    for value in secrets:
        content = content.replace(value, REMOVED)
    return forms.without(content)


def _anything(value: Any, secrets: list[str]) -> Any:
    if isinstance(value, str):
        return _text(value, secrets)
    if isinstance(value, Mapping):
        return {_anything(key, secrets): _entry(key, item, secrets) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_anything(item, secrets) for item in value)
    return value


def _entry(key: Any, item: Any, secrets: list[str]) -> Any:
    """Return a mapping's value, removed where the key's name marks it as a secret."""
    is_plain = isinstance(key, str) and isinstance(item, str | int) and not isinstance(item, bool)
    if is_plain and forms.marks(key, str(item), is_text=isinstance(item, str)):
        return REMOVED
    return _anything(item, secrets)


def file(path: Path) -> None:
    """Remove the secrets from a log that is complete."""
    try:
        before = path.read_bytes().decode("utf-8", "surrogateescape")
    except OSError:
        return
    after = text(before)
    if after != before:
        path.write_bytes(after.encode("utf-8", "surrogateescape"))


def _values(environment: Mapping[str, str]) -> list[str]:
    """Return the secrets of the environment as they stand in a text, in JSON and in a URL, the longest first."""
    secrets = set()
    for name, value in environment.items():
        if forms.of_environment(name) and (len(value) >= _SHORTEST or forms.is_random(value)):
            secrets |= {value, json.dumps(value)[1:-1], quote(value, safe=""), *_lines(value)}
    return sorted(secrets, key=len, reverse=True)


def _lines(value: str) -> set[str]:
    """Return the lines of a key that is stored over several, which a log may break apart."""
    lines = value.splitlines()
    return {line for line in lines if len(line) >= 2 * _SHORTEST} if len(lines) > 1 else set()
