"""Order of the training rows, and their collation into micro batches, padded on the right, packed examples apart.

A row may hold several examples (`lengths`). Then each example counts its positions from 0 and the batch carries no
attention mask: transformers takes every restart of the positions for the beginning of another sequence, which attends
to itself only (`masking_utils.find_packed_sequence_indices`). Padding is such a sequence as well. FlashAttention gets
the starts of the sequences instead (`cu_seq_lens`), and takes all rows of a micro batch as one.
"""

from __future__ import annotations

import multiprocessing.context
import os
import signal
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset, Sampler

from harness.records.settings import TrainSpec
from harness.train.fsdp import unwrapped
from harness.train.signals import SIGNALS, end_with_parent

Row = dict[str, list[int]]  # input_ids and completion_mask, of one length; lengths of the examples, where it is packed
NO_LABEL = -100
NO_ROW = -1  # in place of a row's number: this rank has no row left, and computes a micro batch all the same
FILLER: Row = {"input_ids": [0], "labels": [NO_LABEL]}


class Labeled(Dataset[Row]):  # type: ignore[misc]
    """Training rows with labels, which are made when a row is read."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> Row:
        return FILLER if index == NO_ROW else labeled(self._rows[index])


def labeled(row: Row) -> Row:
    """Return the token ids of a row, and as labels those that are learned.

    Nothing predicts the first token of an example, which gets no label.
    """
    learnt = zip(row["input_ids"], row["completion_mask"], strict=True)
    labels = [token if keep else NO_LABEL for token, keep in learnt]
    begin = 0
    for length in row.get("lengths", [len(labels)]):
        labels[begin] = NO_LABEL
        begin += length
    batch = {"input_ids": row["input_ids"], "labels": labels}
    return {**batch, "seq_lengths": row["lengths"]} if "lengths" in row else batch  # a name that TRL lets through


def row_lengths(rows: Sequence[Row]) -> Sequence[int]:
    """Return the number of tokens of each row, without reading the rows where the numbers are stored."""
    lengths = getattr(rows, "row_lengths", None)
    return [len(row["input_ids"]) for row in rows] if lengths is None else lengths


@dataclass(frozen=True, kw_only=True)
class Collator:
    """Makes a batch of rows: `input_ids`, `labels`, `attention_mask` (1: a real token) and, if packed, `position_ids`.

    `padding` is a token id. Rows are padded to the longest of them, rounded up to a multiple of `multiple`, but to no
    more than `limit` tokens; a filler is a single token. With `ends` packed batches carry `cu_seq_lens`: where each
    sequence begins in all rows one after the other, and the number of all tokens.
    """

    padding: int
    multiple: int = 1
    limit: int | None = None
    ends: bool = False

    def __call__(self, rows: Sequence[Row]) -> dict[str, torch.Tensor]:
        """Return tensors of shape (rows, tokens), but for `cu_seq_lens`."""
        longest = max(len(row["input_ids"]) for row in rows)
        multiple = 1 if rows[0] is FILLER else self.multiple
        rounded = -(-longest // multiple) * multiple
        length = max(longest, rounded if self.limit is None else min(rounded, self.limit))
        batch = {
            "input_ids": torch.tensor([_padded(row["input_ids"], length, self.padding) for row in rows]),
            "labels": torch.tensor([_padded(row["labels"], length, NO_LABEL) for row in rows]),
            "attention_mask": torch.tensor([_padded(_real(row), length, 0) for row in rows]),
        }
        if "seq_lengths" in rows[0]:
            batch["position_ids"] = torch.tensor([_positions(row["seq_lengths"], length) for row in rows])
            if self.ends:
                starts = (batch["position_ids"].flatten() == 0).nonzero()[:, 0]
                batch["cu_seq_lens"] = torch.cat([starts, torch.tensor([length * len(rows)])]).int()
        return batch


def for_model(batch: dict[str, Any], masked: bool = True) -> dict[str, Any]:
    """Return the model's arguments for a batch.

    Packed examples are told apart by their positions, or as one row with the lengths of its sequences, and never by a
    mask. A single token needs none either: the filler's says that it counts as nothing. With `masked=False` no batch
    has one.
    """
    apart = "position_ids" in batch or batch["input_ids"].shape[1] == 1
    inputs = {name: value for name, value in batch.items() if name not in ("attention_mask", "cu_seq_lens")}
    if masked and not apart:
        inputs["attention_mask"] = batch["attention_mask"]
    ends = batch.get("cu_seq_lens")
    if ends is None:
        return inputs
    longest = batch["input_ids"].shape[1]  # of a row, and so of any sequence: a kernel needs no closer bound
    lengths = {"cu_seq_lens_q": ends, "cu_seq_lens_k": ends, "max_length_q": longest, "max_length_k": longest}
    return {**{name: value.reshape(1, -1) for name, value in inputs.items()}, **lengths}


def reads_padding(model: Any) -> bool:
    """Return whether a real token may see padding behind it, so that the model needs a mask.

    It cannot where every attention is causal, over all tokens or a window of them. An architecture that does not state
    this in transformers' terms is assumed to need a mask.
    """
    base = unwrapped(model)
    config = base.config.get_text_config()
    layers = set(getattr(config, "layer_types", None) or ())
    causal = [module.is_causal for module in base.modules() if hasattr(module, "is_causal")]
    return (
        not type(base).__module__.startswith("transformers.")
        or not layers <= {"full_attention", "sliding_attention"}
        or bool(getattr(config, "use_bidirectional_attention", None))
        or len(causal) < config.num_hidden_layers
        or not all(causal)
    )


def _real(row: Row) -> list[int]:
    return [0 if row is FILLER else 1] * len(row["input_ids"])


def _padded(values: list[int], length: int, padding: int) -> list[int]:
    return values + [padding] * (length - len(values))


def _positions(lengths: Sequence[int], whole: int) -> list[int]:
    padding = whole - sum(lengths)
    return [place for length in (*lengths, padding) for place in range(length)]


def check_apart(model: Any) -> None:
    """Check on two short packed examples that they do not see each other.

    Raises:
        ValueError: this model lets them see each other.
    """
    device = model.get_input_embeddings().weight.device
    first, second = [5, 6, 7, 8, 9, 10], [11, 12, 13, 14]
    rows = [labeled({"input_ids": ids, "completion_mask": [1] * len(ids)}) for ids in (second, first + second)]
    rows[1]["seq_lengths"] = [len(first), len(second)]
    was_training = model.training
    model.eval()
    with torch.no_grad():
        alone, packed, unmasked = (
            model(**{k: v.to(device) for k, v in inputs.items()}, use_cache=False).logits[0, -len(second) :].float()
            for inputs in (_inputs(rows[:1]), _inputs(rows[1:]), {"input_ids": torch.tensor([first + second])})
        )
    model.train(was_training)
    apart, seen = (packed - alone).abs().max(), (unmasked - alone).abs().max()
    if apart > 0.05 * seen:
        raise ValueError(
            f"train.packing=true: {type(model).__name__} lets packed examples see each other (logits differ by "
            f"{apart:.2g}, by {seen:.2g} without any separation); set train.packing=false"
        )


def _inputs(rows: list[Row]) -> dict[str, torch.Tensor]:
    return {k: v for k, v in for_model(Collator(padding=0)(rows)).items() if k != "labels"}


LIMIT_SECONDS = 600.0  # without a batch, after which a loader is taken to hang; torch would wait for ever
_AHEAD = 2  # batches that torch has each process prepare
_TENSORS = 4  # of a batch: ids, labels, mask, positions; 8 bytes an entry
_BESIDE = 16 * 2**20  # of the interpreter's own, and of other programs
_SHARED_MEMORY = Path("/dev/shm")
_MEBIBYTE = 2**20


def limit(spec: TrainSpec) -> float:
    """Return the seconds to wait for a batch; 0, for no limit, without processes of their own.

    Raises:
        ValueError: the machine has too little shared memory for the batches; says how to have more. torch would end
            with a bus error, or name the lack of space on a device.
    """
    if not spec.dataloader_num_workers:
        return 0.0
    batch = spec.micro_batch_size * spec.max_length * _TENSORS * 8
    needed = spec.dataloader_num_workers * _AHEAD * batch + _BESIDE
    free = _free()
    if free is not None and free < needed:
        raise ValueError(
            f"train.dataloader_num_workers={spec.dataloader_num_workers}: these processes pass batches on through "
            f"{_SHARED_MEMORY}, where {free / _MEBIBYTE:.0f} MiB are free and {needed / _MEBIBYTE:.0f} MiB are needed: "
            "give the container more, as in docker run --shm-size=1g, or set train.dataloader_num_workers=0"
        )
    return LIMIT_SECONDS


def guarded(loader: Any, spec: TrainSpec) -> Any:
    """Return a loader whose processes have the time limit, outlive a request to end, and end with this process.

    Schedulers send their signal to every process, and the batches of the step under way are still needed. Raises as
    `limit` does.
    """
    own = getattr(loader, "base_dataloader", loader)  # accelerate's loader iterates over the one that it holds
    own.timeout = limit(spec)
    own.worker_init_fn = partial(_begin, own.worker_init_fn)
    if own.num_workers:
        own.multiprocessing_context = _Context()
    return loader


class _Process(multiprocessing.context.ForkProcess):
    def start(self) -> None:
        """Fork with signals held back: until `_begin` the new process has this one's handlers, and then torch's."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
        try:
            super().start()
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)


class _Context(multiprocessing.context.ForkContext):
    Process = _Process


def _begin(then: Callable[[int], None] | None, number: int) -> None:
    end_with_parent(signal.SIGKILL)
    for other in SIGNALS:
        signal.signal(other, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _miss_the_first)  # by which torch ends a process that hangs, and Python once more
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)  # held back since the fork
    if then is not None:
        then(number)


def _miss_the_first(number: int, frame: Any) -> None:
    signal.signal(number, signal.SIG_DFL)


def _free() -> int | None:
    try:
        stats = os.statvfs(_SHARED_MEMORY)
    except OSError:  # no Linux, or none mounted: torch uses files elsewhere
        return None
    return stats.f_bavail * stats.f_frsize


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
        whole, remainder = divmod(len(self._order), self._global_size)
        micro_batches = self._global_size // (self._micro_size * self._number)
        return whole * micro_batches + -(-remainder // (self._micro_size * self._number))

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
