"""Several examples in one row, so that nothing is computed on padding; none of them sees another (`harness.train`)."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from harness.data.token_rows import Drawn, Row, Rows, Short, TokenRows


def plan(lengths: Sequence[int], max_length: int) -> list[list[int]]:
    """Return the examples of each row: best fit, longest first; deterministic, and no row is over `max_length`."""
    rows: list[list[int]] = []
    room: dict[int, list[int]] = {}  # tokens that are left -> rows
    open_rooms: list[int] = []  # the keys of `room`, sorted
    for example in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        length = lengths[example]
        place = bisect.bisect_left(open_rooms, length)
        if place == len(open_rooms):
            row, left = len(rows), max_length
            rows.append([])
        else:
            left = open_rooms[place]
            row = room[left].pop()
            if not room[left]:
                del room[left], open_rooms[place]
        rows[row].append(example)
        remainder = left - length
        if remainder:
            if remainder not in room:
                bisect.insort(open_rooms, remainder)
            room.setdefault(remainder, []).append(row)
    return rows


class Packed(Rows):
    """Rows of examples one after the other: `input_ids`, `completion_mask`, and `lengths` of the examples in it."""

    def __init__(self, rows: TokenRows | Short | Drawn, max_length: int) -> None:
        lengths = rows.row_lengths
        self._rows, self._plan = rows, plan(lengths, max_length)
        self.row_lengths = [sum(lengths[example] for example in row) for row in self._plan]

    def __len__(self) -> int:
        return len(self._plan)

    def _row(self, place: int) -> Row:
        return joined([self._rows[example] for example in self._plan[place]])


def joined(examples: Sequence[Row]) -> Row:
    """Return one row of several examples."""
    return {
        "input_ids": [token for example in examples for token in example["input_ids"]],
        "completion_mask": [mark for example in examples for mark in example["completion_mask"]],
        "lengths": [len(example["input_ids"]) for example in examples],
    }
