"""Keys, order and split side of examples, computed from their content alone."""

import hashlib
import re
import unicodedata
from collections.abc import Iterable
from typing import Literal

from harness.data.format import Example
from harness.data.spill import Examples
from harness.records.identity import canonical

_UNSEEN = dict.fromkeys(map(ord, "\u00ad\u200b\u2060\ufeff"))  # soft hyphen, zero-width space, joiner, byte order mark

_WITHOUT_SPACES = re.compile("[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff]")  # each is taken for a word


def key(example: Example) -> str:
    """Return the key that tells prompts apart: the normalized prompt, or the completion if there is no prompt."""
    return normalize(example.prompt) or normalize(example.completion)


def normalize(text: str) -> str:
    """Return text without the differences that do not make another question: case and white space."""
    return " ".join(_folded(text).split())


def words(text: str) -> str:
    """Return text for comparing words: case folded, invisible signs removed, each Chinese or Japanese sign a word."""
    return _folded(text) if text.isascii() else _WITHOUT_SPACES.sub(r" \g<0> ", _folded(text.translate(_UNSEEN)))


def _folded(text: str) -> str:
    """Return text without case, in Unicode's composed form (NFC)."""
    return text.casefold() if text.isascii() else unicodedata.normalize("NFC", text.casefold())


def order(example: Example) -> bytes:
    """Return the SHA-256 of an example's identity, by which examples are sorted whatever the order of a file."""
    return hashlib.sha256(canonical(example.identity).encode()).digest()


def short(text: str) -> bytes:
    """Return sixteen bytes that stand for a text."""
    return hashlib.sha256(text.encode()).digest()[:16]


def asked(example: Example, by: Literal["prompt", "row"]) -> str:
    """Return the text by which rows are told apart and divided: the prompt's key, or the whole row's."""
    return key(example) if by == "prompt" else canonical([key(example), normalize(example.completion)])


def fraction(example: Example, by: Literal["prompt", "row"]) -> float:
    """Return a number in [0, 1) that depends on the prompt alone, or on the whole row."""
    return int(hashlib.sha256(asked(example, by).encode()).hexdigest()[:13], 16) / 16**13


def content(parts: Iterable[Examples]) -> str:
    """Return the SHA-256 of the canonical JSON of the examples of all parts, in their order."""
    result = hashlib.sha256()
    for number, part in enumerate(parts):
        result.update(b"[[" if number == 0 else b",[")
        for index, example in enumerate(part):
            result.update((b"," if index else b"") + canonical(example.identity).encode())
        result.update(b"]")
    result.update(b"]")
    return result.hexdigest()
