"""Runs of words that training rows share with evaluation items.

An item counts as found if a training row contains a run of 13 of its words (case and punctuation aside), as in Brown et
al. 2020, arXiv 2005.14165, appendix C. An item of 5 to 12 words counts as found if a row contains all of them in a row.
Words that all items of a set begin or end with are its template and ignored. So are runs that more than one in a
hundred items share.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from harness.data.format import Example
from harness.evaluate import tasks
from harness.records.data_check import Overlap
from harness.records.settings import EvalSpec
from harness.run.audit.ngrams import Known, Texts, distinct

if TYPE_CHECKING:
    from harness.run.audit.ngrams import Numbers, Words


Sets = Mapping[str, Mapping[str, str]]  # name of a set -> id of an item -> its text
NGRAM = 13
SHORTEST = 5
_NAMED = 5
_BATCH = 2_000


def overlaps(sets: Sets, rows: Iterable[Example], progress: Callable[[int], None]) -> tuple[Overlap, ...]:
    """Return for each set of items how many and which of them are found in the training rows, and in how many rows.

    A set holds the text of each item by the item's id.
    """
    index = _Index(sets)
    seen = 0
    source = iter(rows)
    while batch := list(islice(source, _BATCH)):
        index.scan(batch)
        seen += len(batch)
        progress(seen)
    return tuple(index.overlap(name) for name in sets)


def unseen(name: str, reason: str) -> Overlap:
    """Return the entry of a set whose items are not available."""
    return Overlap(
        name=name, items=0, items_without_words=0, items_found=0, train_rows_found=0, examples=(), reason=reason
    )


class _Index:
    """Index of every item's runs of words by their hashes, and of the items found so far."""

    def __init__(self, sets: Sets) -> None:
        self._sets = sets
        self._short = dict.fromkeys(sets, 0)
        self._rows = dict.fromkeys(sets, 0)
        self._found: dict[str, dict[int, str]] = {name: {} for name in sets}
        self._first = dict(zip(sets, np.cumsum([0, *map(len, sets.values())]).tolist(), strict=False))
        pairs: dict[int, list[tuple[Words, Numbers]]] = {}
        for name, items in sets.items():
            texts = Texts.of(items.values()).without_frame()
            self._short[name] = int((texts.lengths < SHORTEST).sum())
            for size in range(SHORTEST, NGRAM + 1):
                runs, owners = _runs(texts, size)
                if len(runs):
                    pairs.setdefault(size, []).append((runs, owners + self._first[name]))
        self._known = {size: Known.of(runs_of_size) for size, runs_of_size in pairs.items()}

    def scan(self, batch: Sequence[Example]) -> None:
        """Search a batch of training rows for the runs."""
        texts = Texts.of(f"{example.prompt} {example.completion}" for example in batch)
        hits: dict[int, set[int]] = {}
        for size, index in self._known.items():
            for row, owners in index.found(texts, size):
                hits.setdefault(row, set()).update(owners.tolist())
        for row, items in sorted(hits.items()):
            self._note(batch[row].place, items)

    def _note(self, place: str, owners: set[int]) -> None:
        for name, first in self._first.items():
            numbers = [owner - first for owner in owners if first <= owner < first + len(self._sets[name])]
            self._rows[name] += bool(numbers)
            for number in numbers:
                self._found[name].setdefault(number, place)

    def overlap(self, name: str) -> Overlap:
        """Return the overlap of one set."""
        hits = sorted(self._found[name].items())
        ids = [*self._sets[name]]
        return Overlap(
            name=name,
            items=len(self._sets[name]),
            items_without_words=self._short[name],
            items_found=len(hits),
            train_rows_found=self._rows[name],
            examples=tuple(f"item {number} in {place}" for number, place in hits[:_NAMED]),
            found_ids=tuple(ids[number] for number, _ in hits),
        )


def _runs(texts: Texts, size: int) -> tuple[Words, Numbers]:
    """Return (runs, items) that identify items: all words of a short item, otherwise runs that few items share."""
    runs, owners = distinct(*texts.runs(size))
    if size < NGRAM:
        whole = texts.lengths[owners] == size
        return runs[whole], owners[whole]
    _, which, items = np.unique(runs, return_inverse=True, return_counts=True)
    few = items[which] <= max(3, len(texts.lengths) // 100)
    return runs[few], owners[few]


def evaluation_items(spec: EvalSpec) -> tuple[dict[str, dict[str, str]], dict[str, str]]:
    """Return (the items of each task, ignoring limits; the reasons why other tasks have none, by task).

    An item's id is `leaf task:number`, which are the first and the last part of its id in the records of evaluations.
    """
    texts: dict[str, dict[str, str]] = {}
    reasons: dict[str, str] = {}
    for name in spec.tasks:
        try:
            loaded = tasks.load(name, spec.source, spec.path, spec.include_path, spec.unsafe_code)
            texts[name] = {
                f"{leaf_name}:{number}": _text(leaf, doc)
                for leaf_name, leaf in loaded["tasks"].items()
                for number, doc in enumerate(leaf.eval_docs)
            }
        except ValueError as error:  # the check of the tasks reports it; here the set is listed as missing
            reasons[name] = " ".join(str(error).split())
    return texts, reasons


def _text(task: Any, doc: dict[str, Any]) -> str:
    """Return the item as a prompt; if the task gives no text for it, return all texts of its row."""
    text = task.doc_to_text(doc)
    if isinstance(text, str) and text.strip():
        return text
    return " ".join(value for value in doc.values() if isinstance(value, str))
