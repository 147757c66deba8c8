"""Rows of tokens that are read where they lie, one at a time."""

from __future__ import annotations

import bisect
from abc import abstractmethod
from collections.abc import Sequence
from pathlib import Path
from random import Random
from typing import overload

# input_ids and completion_mask, of one length; answer_characters: one number, the length of the answer's text
Row = dict[str, list[int]]


class Rows(Sequence[Row]):
    """A sequence that makes each row when it is asked for."""

    @abstractmethod
    def _row(self, place: int) -> Row:
        """Return the row at an existing place, counted from the beginning."""

    @overload
    def __getitem__(self, index: int) -> Row: ...
    @overload
    def __getitem__(self, index: slice) -> list[Row]: ...
    def __getitem__(self, index: int | slice) -> Row | list[Row]:
        if isinstance(index, slice):
            return [self._row(place) for place in range(*index.indices(len(self)))]
        place = index + len(self) if index < 0 else index
        if not 0 <= place < len(self):
            raise IndexError(index)
        return self._row(place)


class TokenRows(Rows):
    """Rows of `input_ids`, `completion_mask` and `answer_characters` in an Arrow file, mapped into memory."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        reader = pyarrow.ipc.open_file(pyarrow.memory_map(str(path)))
        self._batches = [reader.get_batch(index) for index in range(reader.num_record_batches)]
        self._starts = [0]
        for batch in self._batches:
            self._starts.append(self._starts[-1] + batch.num_rows)

    def __len__(self) -> int:
        return self._starts[-1]

    def _row(self, place: int) -> Row:
        which = bisect.bisect_right(self._starts, place) - 1
        batch, row = self._batches[which], place - self._starts[which]
        return {name: batch.column(name)[row].as_py() for name in ("input_ids", "completion_mask", "answer_characters")}

    @property
    def row_lengths(self) -> list[int]:
        """Return the number of tokens of each row."""
        import pyarrow.compute

        columns = (batch.column("input_ids") for batch in self._batches)
        return [length for column in columns for length in pyarrow.compute.list_value_length(column).to_pylist()]

    def highest(self) -> int:
        """Return the highest token id; -1 if there is none."""
        arrays = [batch.column("input_ids").flatten().to_numpy() for batch in self._batches]
        return max((int(ids.max()) for ids in arrays if len(ids)), default=-1)


class Short(Rows):
    """Rows of others that are not longer than `max_length` tokens, in their order.

    Raises:
        ValueError: every row is longer.
    """

    def __init__(self, rows: TokenRows, max_length: int) -> None:
        short = [(place, length) for place, length in enumerate(rows.row_lengths) if length <= max_length]
        if not short:
            raise ValueError(f"train.oom.max_lengths: every training row is longer than {max_length} tokens")
        self._rows = rows
        self._places, self.row_lengths = zip(*short, strict=True)

    def __len__(self) -> int:
        return len(self._places)

    def _row(self, place: int) -> Row:
        row: Row = self._rows[self._places[place]]
        return row


class Drawn(Rows):
    """A bootstrap sample of the training set: rows of others drawn with replacement, as many as there are.

    Source: Bouthillier et al., Accounting for Variance in Machine Learning Benchmarks, 2021 (arXiv:2103.03098).
    """

    def __init__(self, rows: TokenRows | Short, seed: int) -> None:
        random = Random(seed)  # its own stream: nothing else is drawn from it
        self._rows = rows
        self._places = [random.randrange(len(rows)) for _ in range(len(rows))]
        lengths = rows.row_lengths
        self.row_lengths = [lengths[place] for place in self._places]

    def __len__(self) -> int:
        return len(self._places)

    def _row(self, place: int) -> Row:
        row: Row = self._rows[self._places[place]]
        return row
