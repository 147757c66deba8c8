"""Records without the names, hosts, paths and accounts of those who made them, for double-blind review.

A value is removed for the name of its setting, for its form (a path, an address, a URL) or because it holds a word of
`identity.words`. Numbers, digests and text of data and models stay. A registration gets the digest of its new content:
the original one, which was published, would lead to its authors.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath
from typing import Any

from harness.records import disk, record, registration
from harness.records.registration import Registration
from harness.report.archive import identity
from harness.report.archive.container import Members
from harness.report.archive.members import to_json

REMOVED = "removed"
_AUTHOR = "anonymous"
_URL = re.compile(r"\b[a-z][a-z0-9+.-]*://[^\s\"'<>]+", re.IGNORECASE)
_PUBLIC = re.compile(r"https?://(?:dx\.)?(?:arxiv|doi|w3id)\.org/\S*", re.IGNORECASE)
_PUBLISHED = re.compile(r"https://[a-z0-9-]+(?:\.[a-z0-9-]+)+(?:/\S*)?", re.IGNORECASE)
_EMAIL = re.compile(r"[\w.+-]+@(?!best\b)[\w-]+(?:\.[\w-]+)*")  # lora@best is a recipe of a claim
_IPV4 = re.compile(r"(?<![\w.=])(?:\d{1,3}\.){3}\d{1,3}(?![\w.])")
_IPV6 = re.compile(r"(?<![\w:])(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}(?![\w:])|\bfe80::[0-9a-f:]+", re.IGNORECASE)
_PATH = re.compile(r"(?<![\w./~<>-])(?:~[\w-]*/|/(?=[\w.@+~-]*[A-Za-z]))[\w.@+%~,-]*(?:/[\w.@+%~,-]+)*/?")
_WINDOWS = re.compile(r"(?<!\w)(?:[A-Za-z]:\\|\\\\)[^\s\"'<>|]+")
_SETTING = re.compile(r"(?<![\w.])([+~]{0,2}[A-Za-z_][\w.]*)=(\"[^\"]*\"|'[^']*'|[^\s,\])}]+)")
_WORD = re.compile(r"([+~]{0,2}[A-Za-z_][\w./]*)=(.*)", re.DOTALL)
# Fields that cite publications, whose addresses stay
_CITING = frozenset({"claim", "license", "note", "origin", "question", "source"})
_WORDS = frozenset({"arguments", "overrides"})  # fields that hold one override in each text
_VERSIONS, _VERSION = "versions", re.compile(r"\d[\w.+!-]*")


@dataclass(frozen=True)
class Redaction:
    """Removal of words, paths and addresses; one path has the same stand-in in every file."""

    words: tuple[str, ...]
    places: dict[str, str] = field(default_factory=dict)

    def anything(self, value: Any, key: str = "") -> Any:
        """Return a JSON value without what identifies its author; `key` is the name that it stands under."""
        if isinstance(value, str | list | dict) and identity.is_private(key):
            return None
        if isinstance(value, dict):
            below = [(name, _VERSIONS if key == _VERSIONS else name) for name in value]
            return {self.plain(name): self.anything(value[name], rule) for name, rule in below}
        if isinstance(value, list):
            return [self.anything(item, key) for item in value]
        if not isinstance(value, str):
            return value
        if identity.is_place(key):
            return self.place(value)
        if key == _VERSIONS and _VERSION.fullmatch(value):  # four numbers of a version are no address
            return self.plain(value)
        if key == "command":
            return self.command(value)
        return self.word(value) if key in _WORDS else self.text(value, _PUBLISHED if key in _CITING else _PUBLIC)

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
        for pattern in (_EMAIL, _IPV4, _IPV6):
            text = pattern.sub(REMOVED, text)
        for pattern in (_WINDOWS, _PATH):
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
        if last.startswith("hydra.") or identity.is_private(last):
            return f"{name}={REMOVED}"
        return f"{name}={self.place(value)}" if identity.is_place(last) else f"{name}={value}"


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
    redaction = Redaction(identity.words([*values.values()], more))
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
