"""Runs of words that training rows share with evaluation items.

The rule: an item is found in the training rows where a run of 13 of its words (case and punctuation aside) is in one of
them, as in Brown et al. 2020, arXiv 2005.14165, appendix C; an item of 5 to 12 words where all of them are, in a row.
Words that all items of a set begin or end with, and runs that more than one in a hundred share, are its template.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

from harness.data.format import Example
from harness.datacheck import Overlap

if TYPE_CHECKING:
    import numpy as np

    Words = np.ndarray[Any, np.dtype[np.uint64]]

NGRAM = 13
SHORTEST = 5
_NAMED = 5
_BATCH = 2_000
_WORD = re.compile(r"\w+")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, so that powers keep all bits


def overlaps(
    sets: Mapping[str, Sequence[str]], rows: Iterable[Example], progress: Callable[[int], None]
) -> tuple[Overlap, ...]:
    """For each set of items, how many are found in the training rows, and in how many of them."""
    index = _Index(sets)
    seen = 0
    source = iter(rows)
    while batch := list(islice(source, _BATCH)):
        index.scan(batch)
        seen += len(batch)
        progress(seen)
    return tuple(index.overlap(name) for name in sets)


def unseen(name: str, reason: str) -> Overlap:
    """A set whose items could not be had."""
    return Overlap(
        name=name, items=0, items_without_words=0, items_found=0, train_rows_found=0, examples=(), reason=reason
    )


class _Index:
    """Every run of words of every item, by its hash, and what was found of them."""

    def __init__(self, sets: Mapping[str, Sequence[str]]) -> None:
        import numpy as np

        self._sets = sets
        self._short = dict.fromkeys(sets, 0)
        self._rows = dict.fromkeys(sets, 0)
        self._found: dict[str, dict[int, str]] = {name: {} for name in sets}
        self._owners: dict[int, list[tuple[str, int]]] = {}
        hashes: dict[int, list[int]] = {}
        for name, items in sets.items():
            for number, size, run in _runs(items, self._short, name):
                hashes.setdefault(size, []).append(run)
                self._owners.setdefault(run, []).append((name, number))
        self._sorted = {size: np.unique(np.array(runs, dtype=np.uint64)) for size, runs in hashes.items()}

    def scan(self, batch: Sequence[Example]) -> None:
        """Look for the runs in some training rows."""
        import numpy as np

        words = [_words(f"{example.prompt} {example.completion}") for example in batch]
        row_of = np.repeat(np.arange(len(batch)), [len(one) for one in words])
        whole = _hashed([word for one in words for word in one])
        hits: dict[int, set[int]] = {}
        for size, known in self._sorted.items():
            runs = _rolling(whole, size)
            if not len(runs):
                continue
            places = np.minimum(np.searchsorted(known, runs), len(known) - 1)
            inside = row_of[: len(runs)] == row_of[size - 1 :]
            for index in np.flatnonzero((known[places] == runs) & inside):
                hits.setdefault(int(row_of[index]), set()).add(int(runs[index]))
        for row, runs_found in sorted(hits.items()):
            self._note(batch[row].place, runs_found)

    def _note(self, place: str, runs: set[int]) -> None:
        owners = sorted({owner for run in runs for owner in self._owners[run]})
        for name in dict.fromkeys(name for name, _ in owners):
            self._rows[name] += 1
        for name, number in owners:
            self._found[name].setdefault(number, place)

    def overlap(self, name: str) -> Overlap:
        """What was found of one set."""
        found = sorted(self._found[name].items())
        return Overlap(
            name=name,
            items=len(self._sets[name]),
            items_without_words=self._short[name],
            items_found=len(found),
            train_rows_found=self._rows[name],
            examples=tuple(f"item {number} in {place}" for number, place in found[:_NAMED]),
        )


def _runs(items: Sequence[str], short: dict[str, int], name: str) -> Iterator[tuple[int, int, int]]:
    """(number of the item, words in the run, its hash) of the runs of a set's items, without its template."""
    words = _without_frame([_words(item) for item in items])
    runs: list[tuple[int, int, list[int]]] = []
    frequency: dict[int, int] = {}
    for number, item in enumerate(words):
        if len(item) < SHORTEST:
            short[name] += 1
            continue
        size = min(NGRAM, len(item))
        found = list(dict.fromkeys(int(one) for one in _rolling(_hashed(item), size)))
        runs.append((number, size, found))
        for run in found if size == NGRAM else ():
            frequency[run] = frequency.get(run, 0) + 1
    most = max(3, len(items) // 100)
    for number, size, found in runs:
        yield from ((number, size, run) for run in found if frequency.get(run, 0) <= most)


def _without_frame(items: list[list[str]]) -> list[list[str]]:
    """Items without the words that all of them begin and end with."""
    if len({tuple(item) for item in items}) < 2:  # what is all of an item is no frame
        return items
    begin = _shared(items)
    rest = [item[begin:] for item in items]
    end = _shared([item[::-1] for item in rest])
    return [item[: len(item) - end] for item in rest]


def _shared(items: list[list[str]]) -> int:
    """How many first words all items have in common."""
    first, last = min(items), max(items)  # what these share, all between them share
    return next((i for i, (a, b) in enumerate(zip(first, last, strict=False)) if a != b), min(len(first), len(last)))


def _words(text: str) -> list[str]:
    return _WORD.findall(text.casefold())


def _hashed(words: Sequence[str]) -> Words:
    import numpy as np

    return np.fromiter((hash(word) & 0xFFFFFFFFFFFFFFFF for word in words), dtype=np.uint64, count=len(words))


def _rolling(words: Words, size: int) -> Words:
    """One hash per run of `size` words."""
    import numpy as np

    if len(words) < size:
        return np.zeros(0, dtype=np.uint64)
    number = len(words) - size + 1
    result = np.zeros(number, dtype=np.uint64)
    for offset in range(size):
        result = result * np.uint64(_MULTIPLIER) + words[offset : offset + number]
    return result
