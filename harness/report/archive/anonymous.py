"""Records without the names, hosts, paths and accounts of those who made them, for double-blind review.

A value is removed for the name of its setting, for its form (a path, an address, a URL) or because it holds a word that
tells who made the records: an account, a host, an address or a name, of this machine and in the records. Numbers,
digests and text of data and models stay. A registration gets the digest of its new content: the original one, which was
published, would lead to its authors.
"""

import json
import os
import re
import shlex
import socket
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields, is_dataclass, replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.records import data_check, disk, evaluation, measurements, record, registration, settings
from harness.records.registration import Registration
from harness.report.archive.container import Members
from harness.report.archive.members import to_json

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
REMOVED = "removed"
_AUTHOR = "anonymous"
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_PUBLIC = re.compile(r"https?://(?:dx\.)?(?:arxiv|doi|w3id)\.org/\S*", re.IGNORECASE)
_PUBLISHED = re.compile(r"https://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/\S*)?", re.IGNORECASE)
# lora@best is a recipe of a claim, pass@1 a metric; behind an address may stand a repository, as in git@host:name/code
_EMAIL = re.compile(
    r"[\w.+-]+@(?!best(?!\w|[.-][A-Za-z]))(?=[\w.-]*[A-Za-z])[\w-]+(?:\.[\w-]+)*(?::~?[\w.+-]*(?:/[\w.+-]+)+)?"
)
_IPV4 = re.compile(r"(?<![\w.])(?<!==)(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_IPV6 = re.compile(
    r"(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?![\w:])|\bfe80::[0-9a-f:]+|"
    r"(?<![\w:])(?:[0-9a-f]{1,4}:){2,6}(?:(?::[0-9a-f]{1,4}){1,5}|:)(?![\w:])",
    re.IGNORECASE,
)
_UUID = re.compile(r"\b(?:GPU-|MIG-)?[0-9a-f]{8}-(?:[0-9a-f]{4}-){3}[0-9a-f]{12}\b", re.IGNORECASE)
# A machine or a page without its scheme: node1.cluster.example.edu, wandb.ai/someone/project
_HOST = re.compile(
    r"(?<![\w./-])(?!harness\.|(?:[\w-]+\.)?(?:arxiv|doi|w3id)\.org\b|huggingface\.co\b)"
    r"(?:(?:[a-z0-9][\w-]*\.)+(?:edu|com|org|net|gov|mil|local|lan|internal|localdomain|corp|example|cluster|hpc|"
    r"ac\.[a-z]{2})|wandb\.ai)(?![\w-]|\.\w)(?:/[\w.~%+-]+)*",
    re.IGNORECASE,
)
# The same in the reason of a failure, where names of machines stand bare as well
_TOLD_HOST = re.compile(
    r"(?<![\w./@-])(?:[a-z0-9][\w-]*\.){2,}(?!py|so|cu|gz|md)[a-z]{2}(?![\w-]|\.\w)|"
    r"(?<![\w.])[A-Za-z][\w.-]*(?<!\.py):\d{4,5}(?!\d)|"
    r"(?<=\bhost )[\w.-]+(?= port\b)|"
    r"(?<=\bhost: )[\w.-]+|(?<=\bhostname: )[\w.-]+|(?<=\bnode: )[\w.-]+|(?<=\buser: )[\w.-]+|(?<=\blogin: )[\w.-]+",
)
_PATH = re.compile(
    r"(?:(?<![\w./~<>-])|(?<=>)(?=/[\w.@+~-]+/))(?:~[\w-]*/|/(?=[\w.@+~-])(?=[\w.@+~/-]*[A-Za-z]))"
    r"[\w.@+%~,-]*(?:/[\w.@+%~,-]+)*/?"
)
_QUOTED = re.compile(r"(?<=\")/[^\"'\n]*[A-Za-z][^\"'\n]*(?=\")|(?<=')/[^\"'\n]*[A-Za-z][^\"'\n]*(?=')")  # with spaces
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\)[^\s\"'<>|]+")
_SETTING = re.compile(r"(?<![\w.])([+~]{0,2}[A-Za-z_][\w.]*)=(\"[^\"]*\"|'[^']*'|[^\s,\])}]+)")
_WORD = re.compile(r"([+~]{0,2}[A-Za-z_][\w./]*)=(.*)", re.DOTALL)
# Fields that cite publications, whose addresses stay
_CITING = frozenset({"claim", "license", "note", "origin", "question", "source"})
_WORDS = frozenset({"arguments", "overrides"})  # fields that hold one override in each text
_TOLD = frozenset({"reason"})  # fields that hold the message of an error
_PUBLIC_FILE = "public file"
_VERSIONS, _VERSION = "versions", re.compile(r"\d[\w.+!-]*")


def is_private(key: str) -> bool:
    """Return whether a setting's name says that its value identifies somebody or a machine."""
    last = key.lower().rpartition(".")[2]
    return last in PRIVATE or last.startswith("slurm")


def is_place(key: str) -> bool:
    """Return whether a setting's name says that its value is a file or a folder."""
    return key.lower().rpartition(".")[2] in PLACES


def identifying_words(values: Sequence[Any], more: Iterable[str] = ()) -> tuple[str, ...]:
    """Return the words to remove, the longest first. A word that records use for something else is not among them.

    Args:
        values: the records, as JSON values; accounts and hosts in them are among the words.
        more: further words of the user's, such as the name of a laboratory.
    """
    used = _vocabulary() | {str(value["method"]).lower() for value in values if isinstance(value.get("method"), str)}
    candidates = {word.strip() for value in values for word in _named(value)} | {word.strip() for word in _of_machine()}
    removed = {
        word
        for word in candidates
        if len(word) >= _SHORTEST and not word.isdecimal() and word.lower() not in _COMMON | used
    }
    removed |= {word.strip() for word in more if word.strip()}
    return tuple(sorted(removed, key=lambda word: (-len(word), word)))


def _vocabulary() -> set[str]:
    """Return the words that the names of the records' fields are made of."""
    modules = (data_check, evaluation, measurements, record, registration, settings)
    schemas = [value for module in modules for value in vars(module).values() if is_dataclass(value)]
    names = {field.name for schema in schemas for field in fields(schema)}
    return names | {part for name in names for part in name.split("_")}


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
    yield from _named_values(value)
    for key, _, given in (word.partition("=") for word in re.findall(r"[\w.+]+=[^\s\"',]+", text)):
        if key.lower().rpartition(".")[2] in _NAMING:
            yield given.strip("\\")


def _named_values(value: Any) -> Iterator[str]:
    if isinstance(value, dict):
        for key, item in value.items():
            if str(key).lower() in _NAMING:
                yield from (part for part in _strings(item) for part in re.split(r"[\s,;]+", part))
            yield from _named_values(item)
    elif isinstance(value, list):
        for item in value:
            yield from _named_values(item)


def _strings(value: Any) -> list[str]:
    if isinstance(value, list):
        return [text for item in value for text in _strings(item)]
    return [value] if isinstance(value, str) else []


@dataclass(frozen=True)
class Redaction:
    """Removal of words, paths and addresses; one path has the same stand-in in every file."""

    words: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)

    def anything(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without what identifies its author; `key` is the name that it stands under."""
        if isinstance(value, str | list | dict) and is_private(key):
            return None
        if isinstance(value, dict):
            below = [(name, _VERSIONS if key == _VERSIONS else name) for name in value]
            if value.get("source") == "package" and value.get("package"):  # a file of a public package is no place
                below = [(name, _PUBLIC_FILE if name == "file" else rule) for name, rule in below]
            return {self.plain(name): self.anything(value[name], rule) for name, rule in below}
        if isinstance(value, list):
            return [self.anything(item, key) for item in value]
        if not isinstance(value, str):
            return value
        if is_place(key):
            return self.place(value)
        if key == _VERSIONS and _VERSION.fullmatch(value):  # four numbers of a version are no address
            return self.plain(value)
        if key == "command":
            return self.command(value)
        if key in _WORDS:
            return self.word(value)
        without_host = _TOLD_HOST.sub(REMOVED, value) if key in _TOLD else value
        return self.text(without_host, _PUBLISHED if key in _CITING else _PUBLIC)

    def command(self, line: str) -> str:
        """Return a command line of which each word is redacted on its own."""
        line = _WINDOWS.sub(lambda match: self.place(match[0]), line)  # before a shell's rules take its backslashes
        try:
            parts = shlex.split(line)
        except ValueError:
            return self.text(line)
        return self.plain(shlex.join(self.word(part) for part in parts))

    def word(self, word: str) -> str:
        """Return an override, of which the whole value is redacted, spaces included."""
        match = _WORD.fullmatch(word)
        setting = self._setting(match[1], match[2]) if match else word
        return self.text(word) if setting == word else self.plain(setting)

    def text(self, text: str, public: re.Pattern[str] = _PUBLIC) -> str:
        """Return text without settings, paths and addresses that identify, and without the words.

        Args:
            text: any text of a record.
            public: the addresses that stay.
        """
        text = _SETTING.sub(lambda match: self._setting(match[1], match[2]), text)
        text = _URL.sub(lambda match: match[0] if public.fullmatch(match[0]) else REMOVED, text)
        for pattern in (_EMAIL, _IPV4, _IPV6, _UUID, _HOST):
            text = pattern.sub(REMOVED, text)
        for pattern in (_WINDOWS, _QUOTED, _PATH):
            text = pattern.sub(lambda match: self.place(match[0]) if len(match[0]) > 1 else match[0], text)
        for path, stand_in in sorted(self.places.items(), key=lambda pair: -len(pair[0])):
            if len(path) > 4 and re.search(r"[/\\.]", path):
                text = text.replace(path, stand_in)
        return self.plain(text)

    def plain(self, text: str) -> str:
        """Return text without the words alone."""
        for word in self.words:
            text = _whole(word).sub(_AUTHOR, text)
        return text

    def place(self, path: str) -> str:
        """Return the stand-in of a path."""
        if path in self.places.values():
            return path
        return self.places.setdefault(path, f"path-{len(self.places) + 1}")

    def _setting(self, name: str, value: str) -> str:
        last = name.lstrip("+~")
        if last.startswith("hydra.") or is_private(last):
            return f"{name}={REMOVED}"
        return f"{name}={self.place(value)}" if is_place(last) else f"{name}={value}"


def _whole(word: str) -> re.Pattern[str]:
    return re.compile(rf"(?<![^\W_]){re.escape(word)}(?![^\W_])", re.IGNORECASE)


def redacted(members: Members, more: Iterable[str] = ()) -> dict[str, bytes]:
    """Return the members without what identifies their authors.

    Args:
        members: of an archive, without those that describe it.
        more: further words to remove.

    Raises:
        ValueError: a word is left, as in the name of the sweep; names the file.
    """
    values = {name: json.loads(content) for name, content in members.items() if name.endswith(".json")}
    redaction = Redaction(identifying_words([*values.values()], more))
    for name in sorted(values):  # every path, before the first text that may name one without its setting
        redaction.anything(values[name])
    made: dict[str, bytes] = {}
    for name in sorted(members):
        if name in values:
            changed = redaction.anything(values[name])
            made[name] = members[name] if changed == values[name] else to_json(changed)
        elif name.endswith(".parquet"):
            made[name] = _items(members[name], redaction)
    for name in [name for name in made if name.endswith("/registration.json")]:
        made[name] = _registration(made[name], members[name])
    made |= {name: _sums(name, made, members) for name in members if name.endswith(f"/{disk.NAME}")}
    _check(made, redaction.words)
    return made


def _items(content: bytes, redaction: Redaction) -> bytes:
    """Return a table of items without the words; the same bytes where it holds none."""
    import pyarrow
    from pyarrow import parquet

    table = parquet.read_table(pyarrow.BufferReader(content))
    columns = {name: column.to_pylist() for name, column in zip(table.column_names, table.columns, strict=True)}
    changed = {name: [_cell(value, redaction) for value in values] for name, values in columns.items()}
    if changed == columns:
        return content
    written = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table(changed, schema=table.schema), written)
    return bytes(written.getvalue().to_pybytes())


def _cell(value: Any, redaction: Redaction) -> Any:
    if isinstance(value, str):
        return redaction.plain(value)
    return [_cell(item, redaction) for item in value] if isinstance(value, list) else value


def _registration(content: bytes, before: bytes) -> bytes:
    """Return a registration with the digest of its content, if the content was changed and the digest was right."""
    if content == before:
        return content
    original = record.parse(Registration, Path("registration.json"), before)
    changed = record.parse(Registration, Path("registration.json"), content)
    if registration.digest_of(original) != original.digest:
        return content
    return record.text_of(replace(changed, digest=registration.digest_of(changed))).encode()


def _sums(name: str, made: Members, members: Members) -> bytes:
    """Return the list of checksums of a run; that of the redacted files where any was changed."""
    folder = f"{PurePosixPath(name).parent}/"
    files = {path: content for path, content in made.items() if path.startswith(folder)}
    if all(content == members[path] for path, content in files.items()):
        return members[name]
    listed = {line.split(" ", 2)[-1] for line in members[name].decode().splitlines()}
    sums = {path.removeprefix(folder): disk.sum_of_bytes(content) for path, content in sorted(files.items())}
    lines = [f"{digest} {size} {path}" for path, (digest, size) in sums.items() if path in listed]
    return "".join(f"{line}\n" for line in lines).encode()


def _check(members: Members, words: Iterable[str]) -> None:
    """Search every name and content for the words.

    Raises:
        ValueError: one is left; names the file and not the word's owner.
    """
    for word in words:
        pattern = _whole(word)
        for name, content in members.items():
            readable = "" if name.endswith(".parquet") else json_text(content)
            if pattern.search(name) or pattern.search(readable):
                raise ValueError(
                    f"{name}: still holds {word!r}, in a name that cannot be changed; rename the sweep, the model or "
                    "the data set"
                )


def json_text(content: bytes) -> str:
    """Return the text of a JSON file with its escape sequences resolved; other text as it is."""
    text = content.decode(errors="replace")
    try:
        return json.dumps(json.loads(text), ensure_ascii=False)
    except ValueError:
        return text
