"""Words that tell who made the records: accounts, hosts, addresses and names, of this machine and in the records."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from harness.records import data_check, evaluation, measurements, record, registration, settings

# Settings and facts whose values identify a person, an account or a machine, by the last part of their name.
PRIVATE = frozenset(
    {
        "account", "author", "authors", "commit", "device_uuid", "email", "entity", "fqdn", "group", "home", "host",
        "hostname", "hosts", "job_id", "login", "machine", "mail", "node", "nodelist", "nodename", "nodes", "owner",
        "partition", "project", "qos", "reservation", "run_by", "serial", "user", "user_name", "username", "uuid",
    }
)  # fmt: skip
# Settings that hold a file or a folder.
PLACES = frozenset(
    {
        "cache_dir", "cwd", "dir", "file", "folder", "include_path", "log", "path", "reports_dir", "runs", "runs_dir",
        "test_file", "working_directory",
    }
)  # fmt: skip
# Accounts and machines that many share, and words of records that an account may be called like.
_COMMON = frozenset(
    {
        "admin", "base", "data", "docker", "full", "harness", "home", "jovyan", "local", "localdomain", "localhost",
        "lora", "model", "nobody", "research", "root", "runner", "runs", "seed", "test", "train", "ubuntu", "user",
        "users", "work", "workspace",
    }
)  # fmt: skip
_NAMING = PRIVATE - {"commit", "group", "job_id", "partition", "project", "qos", "serial", "device_uuid", "uuid"}
_HOMES = re.compile(r"(?:/home/|/Users/|/users/|\\Users\\)([^/\\\s\"',;:]+)")
_SHORTEST = 3


def is_private(key: str) -> bool:
    """Return whether a setting's name says that its value identifies somebody or a machine."""
    last = key.lower().rpartition(".")[2]
    return last in PRIVATE or last.startswith("slurm")


def is_place(key: str) -> bool:
    """Return whether a setting's name says that its value is a file or a folder."""
    return key.lower().rpartition(".")[2] in PLACES


def words(values: Sequence[Any], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the words to remove, the longest first. A word that records use for something else is not among them.

    Args:
        values: the records, as JSON values; accounts and hosts in them are among the words.
        more: further words of the user's, such as the name of a laboratory.
    """
    chosen: set[str] = set()
    for value in values:
        _add(_named(value), chosen)
    _add(_of_machine(), chosen)
    used = _vocabulary() | {str(value["method"]).lower() for value in values if isinstance(value.get("method"), str)}
    removed = {word for word in chosen if word.lower() not in used}
    removed |= {word.strip() for word in more if word.strip()}
    return tuple(sorted(removed, key=lambda word: (-len(word), word)))


def _vocabulary() -> set[str]:
    """Return the words that the names of the records' fields are made of."""
    modules = (data_check, evaluation, measurements, record, registration, settings)
    schemas = [value for module in modules for value in vars(module).values() if is_dataclass(value)]
    names = {field.name for schema in schemas for field in fields(schema)}
    return names | {part for name in names for part in name.split("_")}


def _add(candidates: Iterable[str], chosen: set[str]) -> None:
    for candidate in candidates:
        word = candidate.strip()
        if len(word) >= _SHORTEST and word.lower() not in _COMMON and not word.isdecimal():
            chosen.add(word)


def _of_machine() -> Iterator[str]:
    """Yield account, home folder, host and Git identity of who runs this."""
    for name in ("USER", "LOGNAME", "USERNAME", "SUDO_USER"):
        yield os.environ.get(name, "")
    home = Path("~").expanduser()
    yield from (str(home), home.name)
    host = socket.gethostname()
    yield from (host, host.partition(".")[0])
    for key in ("user.name", "user.email"):
        value = _git(key)
        yield from (value, value.partition("@")[0])


def _git(key: str) -> str:
    try:
        done = subprocess.run(["git", "config", "--get", key], capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _named(value: Any) -> Iterator[str]:
    """Yield the values of settings that name an account or a host, and the accounts in paths of home folders."""
    text = json.dumps(value, ensure_ascii=False)
    yield from _HOMES.findall(text)
    yield from _values(value)
    for key, _, given in (word.partition("=") for word in re.findall(r"[\w.+]+=[^\s\"',]+", text)):
        if key.lower().rpartition(".")[2] in _NAMING:
            yield given.strip("\\")


def _values(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).lower() in _NAMING:
                yield from (part for part in _strings(item) for part in re.split(r"[\s,;]+", part))
            yield from _values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _values(item)


def _strings(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []
