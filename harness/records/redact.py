"""Redaction of secrets in records, logs and mirrored numbers before they are written. Standard library only.

A secret is the value of an environment variable whose name says so, what follows such a name and a `=` or `:`, the
user and password of a URL, and a token with a known prefix.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

REMOVED = "<removed>"
_ANY_NAME = r"(?:[A-Za-z0-9_.-]*(?:TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIALS?|[_.-]KEY|API_?KEY))"
_OF_A_TOKENIZER = r"(?![A-Za-z0-9_.-]*(?:pad|eos|bos|unk|sep|cls|mask)_token(?![A-Za-z0-9_.-]))"
_IN_ENVIRONMENT = re.compile(_ANY_NAME, re.IGNORECASE)
_NAME = _OF_A_TOKENIZER + _ANY_NAME  # of a setting; a tokenizer's own tokens are public
_IS_SECRET = re.compile(_NAME, re.IGNORECASE)
_SHORTEST = 8  # shorter values are words of a text as well: KEY=1
_ASSIGNED = re.compile(rf"(?<![A-Za-z0-9_.-])([+~]*{_NAME})=(?P<quote>\\?[\"']?)[^\s\"'\\,)\]}}]+", re.IGNORECASE)
# a colon also occurs in prose, where a token is a word of a language: `unexpected token: nothing`
_BEFORE_COLON = _OF_A_TOKENIZER + r"(?:[A-Za-z0-9_.-]+[_.-](?:TOKEN|KEY)|[A-Za-z0-9_.-]*(?:SECRET|PASSWORD|API_?KEY))"
_AFTER_COLON = r"\\?[\"']?\s*:\s*\\?[\"']?"
_SAID = re.compile(
    rf"(?<![A-Za-z0-9_.-])({_BEFORE_COLON}{_AFTER_COLON})[^\s\"'\\,()\[\]{{}}]{{{_SHORTEST},}}", re.IGNORECASE
)
_IN_URL = re.compile(r"(?<=://)[^\s/@\"'\\]+@")
_TOKEN = re.compile(r"\b(?:hf_[A-Za-z0-9]{16,}|sk-[A-Za-z0-9_-]{16,}|gh[pousr]_[A-Za-z0-9]{16,})")


def text(found: str) -> str:
    """Return the text without its secrets."""
    return _text(found, _values(os.environ))


def anything(value: Any) -> Any:
    """Return the value with the secrets removed from every text in it."""
    return _anything(value, _values(os.environ))


def _text(found: str, secrets: list[str]) -> str:
    for value in secrets:
        found = found.replace(value, REMOVED)
    found = _ASSIGNED.sub(lambda match: f"{match[1]}={match['quote']}{REMOVED}", found)
    found = _SAID.sub(lambda match: f"{match[1]}{REMOVED}", found)
    return _TOKEN.sub(REMOVED, _IN_URL.sub(f"{REMOVED}@", found))


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
    is_secret = isinstance(key, str) and isinstance(item, str) and len(item) >= _SHORTEST and _IS_SECRET.fullmatch(key)
    return REMOVED if is_secret else _anything(item, secrets)


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
    """Return the secrets of the environment as they stand in a text and in JSON, the longest first."""
    found = {v for name, v in environment.items() if len(v) >= _SHORTEST and _IN_ENVIRONMENT.fullmatch(name)}
    return sorted(found | {json.dumps(value)[1:-1] for value in found}, key=len, reverse=True)
