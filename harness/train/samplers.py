"""Order of the training rows, and the part of it that each rank takes."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import torch
from torch.utils.data import Sampler

from harness.train.batches import NO_ROW

_GROUPED_BATCHES = 16  # batches that are sorted by length together


class LengthGroupedSampler(Sampler[int]):  # type: ignore[misc]
    """Rows in random order, or in batches of like length that come in random order.

    Sorting happens within groups of batches only, so that each epoch mixes rows anew. The last batch of an epoch, which
    may be short, is never in the middle. The first epoch has the number `epoch`.
    """

    def __init__(self, lengths: Sequence[int], batch_size: int, seed: int, grouped: bool, epoch: int = 0) -> None:
        self._lengths, self._batch_size, self._seed, self._grouped = lengths, batch_size, seed, grouped
        self._epoch = epoch

    def __len__(self) -> int:
        return len(self._lengths)

    def __iter__(self) -> Iterator[int]:
        # another stream for each pair: seed 0's second epoch must not be seed 1's first
        generator = torch.Generator().manual_seed(self._seed * 1_000_003 + self._epoch)
        self._epoch += 1
        order = torch.randperm(len(self._lengths), generator=generator).tolist()
        if not self._grouped:
            return iter(order)
        size = self._batch_size
        whole = len(order) // size * size
        batches = []
        for start in range(0, whole, size * _GROUPED_BATCHES):
            group = sorted(order[start : min(whole, start + size * _GROUPED_BATCHES)], key=self._lengths.__getitem__)
            batches += [group[i : i + size] for i in range(0, len(group), size)]
        shuffled = [batches[i] for i in torch.randperm(len(batches), generator=generator).tolist()]
        return iter([row for batch in shuffled for row in batch] + order[whole:])


class Shared(Sampler[list[int]]):  # type: ignore[misc]
    """Micro batches of one rank: its part of every global batch, in the order of the rows.

    Together the ranks compute the micro batches that one process would. All ranks take the same number of them, so that
    the last, short batch of an epoch may leave some ranks with nothing but a filler.
    """

    def __init__(self, order: LengthGroupedSampler, rank: int, number: int, global_size: int, micro_size: int) -> None:
        self._order, self._rank, self._number = order, rank, number
        self._global_size, self._micro_size = global_size, micro_size

    def __len__(self) -> int:
        whole, rest = divmod(len(self._order), self._global_size)
        each = self._global_size // (self._micro_size * self._number)
        return whole * each + -(-rest // (self._micro_size * self._number))

    def __iter__(self) -> Iterator[list[int]]:
        order = list(self._order)
        for start in range(0, len(order), self._global_size):
            rows = order[start : start + self._global_size]
            stride = self._micro_size * self._number
            for begin in range(0, len(rows), stride):
                own = begin + self._rank * self._micro_size
                yield rows[own : min(own + self._micro_size, len(rows))] or [NO_ROW]


def largest(micro_batches: Iterable[list[int]], lengths: Sequence[int]) -> list[int]:
    """Return the micro batch with the most positions, padding included."""
    return max(micro_batches, key=lambda rows: len(rows) * max(1 if row == NO_ROW else lengths[row] for row in rows))
