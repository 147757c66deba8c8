"""Runs of words as hashes in one flat array, so that many items take little memory."""

from __future__ import annotations

import re
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from harness.data import duplicates

if TYPE_CHECKING:
    Words = np.ndarray[Any, np.dtype[np.uint64]]
    Numbers = np.ndarray[Any, np.dtype[np.int64]]

_A = TypeVar("_A", bound=np.dtype[Any])
_B = TypeVar("_B", bound=np.dtype[Any])
_WORD = re.compile(r"\w+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that powers keep all bits


@dataclass(frozen=True)
class Texts:
    """Hashed words of several texts, one text after another, and the number of words of each text."""

    words: Words
    lengths: Numbers

    @property
    def owners(self) -> Numbers:
        """Index of the text that each word belongs to."""
        return np.repeat(np.arange(len(self.lengths)), self.lengths)

    @staticmethod
    def of(texts: Iterable[str]) -> Texts:
        """Hash the words of texts, ignoring case and punctuation. The hashes hold in this process only."""
        words, lengths = array("q"), array("q")
        for text in texts:
            tokens = _WORD.findall(duplicates.words(text))
            words.extend(map(hash, tokens))
            lengths.append(len(tokens))
        return Texts(np.asarray(words, dtype=np.int64).view(np.uint64), np.asarray(lengths, dtype=np.int64))

    def without_frame(self) -> Texts:
        """Return the texts without the words that all of them begin and end with; equal texts are left whole."""
        texts = np.split(self.words, np.cumsum(self.lengths)[:-1]) if len(self.lengths) else []
        if all(np.array_equal(text, texts[0]) for text in texts):
            return self
        begin = _shared(texts)
        end = _shared([text[begin:][::-1] for text in texts])
        starts = np.cumsum(self.lengths) - self.lengths
        place = np.arange(len(self.words)) - np.repeat(starts, self.lengths)
        inner = (place >= begin) & (place < np.repeat(self.lengths, self.lengths) - end)
        return Texts(self.words[inner], np.maximum(self.lengths - begin - end, 0))

    def runs(self, size: int) -> tuple[Words, Numbers]:
        """Return the hash, and the index of the text, of each run of `size` words within one text."""
        runs, owners = _rolling(self.words, size), self.owners
        inside = owners[: len(runs)] == owners[size - 1 :]
        return runs[inside], owners[: len(runs)][inside]


def _shared(texts: Sequence[Words]) -> int:
    """Return the number of first words that all texts have in common."""
    first = texts[0]
    length = len(first)
    for text in texts:
        length = min(length, len(text))
        different = np.flatnonzero(text[:length] != first[:length])
        length = int(different[0]) if len(different) else length
        if not length:
            break
    return length


def _rolling(words: Words, size: int) -> Words:
    """Return one hash per run of `size` words."""
    number = len(words) - size + 1
    if number < 1:
        return np.zeros(0, dtype=np.uint64)
    result = np.zeros(number, dtype=np.uint64)
    for offset in range(size):
        result *= np.uint64(_MULTIPLIER)
        result += words[offset : offset + number]
    return result


@dataclass(frozen=True)
class Known:
    """Sorted distinct runs, with the indices of the items that each occurs in."""

    runs: Words
    starts: Numbers  # of each run's owners
    owners: Numbers

    @staticmethod
    def of(pairs: Sequence[tuple[Words, Numbers]]) -> Known:
        """Build the table from pairs of runs and owners, in any order and with repetitions."""
        runs, owners = distinct(*(np.concatenate(column) for column in zip(*pairs, strict=True)))
        distinct_runs, starts = np.unique(runs, return_index=True)
        return Known(distinct_runs, np.append(starts, len(runs)), owners)

    def found(self, texts: Texts, size: int) -> Iterator[tuple[int, Numbers]]:
        """Yield (text, owners) for each run of a text that is in this table."""
        runs, of = texts.runs(size)
        places = np.minimum(np.searchsorted(self.runs, runs), len(self.runs) - 1)
        for index in np.flatnonzero(self.runs[places] == runs):
            begin, end = self.starts[places[index]], self.starts[places[index] + 1]
            yield int(of[index]), self.owners[begin:end]


def distinct(
    first: np.ndarray[Any, _A], second: np.ndarray[Any, _B]
) -> tuple[np.ndarray[Any, _A], np.ndarray[Any, _B]]:
    """Return the distinct pairs of two columns, sorted."""
    order = np.lexsort((second, first))
    first, second = first[order], second[order]
    new = np.ones(len(first), dtype=bool)
    new[1:] = (first[1:] != first[:-1]) | (second[1:] != second[:-1])
    return first[new], second[new]
