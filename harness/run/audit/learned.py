"""The first training rows as they are trained: which of their tokens are learned, and which are only seen."""

from __future__ import annotations

import heapq
from itertools import groupby
from typing import Any

from harness.data import Prepared
from harness.data.encode import encoded
from harness.data.format import Example
from harness.records.data_check import ShownRow
from harness.records.settings import LossOn

ROWS = 3
_LONGEST = 1_500  # characters of a part that are kept, from its beginning and its end


def first_rows(prepared: Prepared, tokenizer: Any, loss_on: LossOn) -> tuple[ShownRow, ...]:
    """Return the training rows that come first in their files, tokenized and masked as for training.

    Rows that cannot be tokenized are left to the training's own message.
    """
    first = heapq.nsmallest(ROWS, prepared.train, key=_number)
    try:
        rows = list(encoded(first, tokenizer, loss_on, add_eos=True))
    except ValueError:
        return ()
    return tuple(_shown(example, row.ids, row.mask, tokenizer) for example, row in zip(first, rows, strict=True))


def _number(example: Example) -> tuple[int, str]:
    place, _, number = example.place.rpartition(":")
    return (int(number) if number.isdecimal() else 0), place


def _shown(example: Example, ids: list[int], mask: list[int], tokenizer: Any) -> ShownRow:
    parts = []
    for is_learned, tokens in groupby(zip(ids, mask, strict=True), key=lambda pair: bool(pair[1])):
        text = tokenizer.decode([token for token, _ in tokens], clean_up_tokenization_spaces=False)
        parts.append((is_learned, _shortened(str(text))))
    return ShownRow(place=example.place, parts=tuple(parts), tokens=len(ids), learned_tokens=sum(mask))


def _shortened(text: str) -> str:
    if len(text) <= _LONGEST:
        return text
    half = _LONGEST // 2
    return f"{text[:half]}[... {len(text) - 2 * half:,} characters ...]{text[-half:]}"
