"""Examples in any number: a tuple as long as they fit into memory, Arrow files on disk from there on."""

import itertools
import shutil
import tempfile
import weakref
from collections.abc import Collection, Iterable, Iterator
from pathlib import Path
from typing import Any

from harness.data.format import Example

MOST_IN_MEMORY = 50_000  # examples; beyond, they are written to disk
MOST_CHARACTERS = 50_000_000
_BATCH = 2_000
_BUCKETS = 256  # one per first byte of a digest

Examples = Collection[Example]


class Scratch:
    """A temporary folder that is removed when nothing refers to it any more."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="harness-rows-"))
        weakref.finalize(self, shutil.rmtree, self.folder, ignore_errors=True)
        self._names = itertools.count()

    def file(self) -> Path:
        """Return a path in the folder that is not in use yet."""
        return self.folder / f"{next(self._names)}.arrow"


class _Budget:
    """Size of the examples that are held in memory, against the limits."""

    def __init__(self) -> None:
        self.number = self.characters = 0

    def add(self, example: Example) -> bool:
        """Count an example; return whether a limit is reached."""
        self.number += 1
        self.characters += len(example.prompt) + len(example.completion)
        return self.number >= MOST_IN_MEMORY or self.characters >= MOST_CHARACTERS


class Stored(Collection[Example]):
    """Examples in an Arrow file, read a batch at a time."""

    def __init__(self, path: Path, number: int, scratch: Scratch) -> None:
        self._path, self._number, self._scratch = path, number, scratch

    def __len__(self) -> int:
        return self._number

    def __iter__(self) -> Iterator[Example]:
        return (example for example, _ in _read(self._path))

    def __contains__(self, example: object) -> bool:
        return any(stored == example for stored in self)


class Collector:
    """Takes examples one by one and gives them back as a collection."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._held: list[Example] = []
        self._budget = _Budget()
        self._writer: _Writer | None = None
        self._number = 0

    def add(self, example: Example) -> None:
        """Add an example."""
        self._held.append(example)
        self._number += 1
        if self._budget.add(example):
            self._spill()

    def __len__(self) -> int:
        return self._number

    def close(self) -> Examples:
        """Return all examples, in their order."""
        if self._writer is None:
            return tuple(self._held)
        self._spill()
        self._writer.close()
        return Stored(self._writer.path, self._number, self._scratch)

    def _spill(self) -> None:
        if self._writer is None:
            self._writer = _Writer(self._scratch.file())
        self._writer.write((example, b"") for example in self._held)
        self._held, self._budget = [], _Budget()


class Sorted:
    """Examples in the order of a digest of their content: what does not fit into memory is sorted in pieces on disk."""

    def __init__(self, scratch: Scratch) -> None:
        self._scratch = scratch
        self._held: list[tuple[Example, bytes]] = []
        self._budget = _Budget()
        self._buckets: dict[int, _Writer] = {}

    def add(self, example: Example, digest: bytes) -> None:
        """Add an example; the order does not matter."""
        self._held.append((example, digest))
        if self._budget.add(example):
            self._spill()

    def __iter__(self) -> Iterator[tuple[Example, bytes]]:
        """Yield each example with its digest, in the digests' order. Can be read once.

        Examples of one digest come in the order in which they were added.
        """
        if not self._buckets:
            yield from sorted(self._held, key=_digest)
            return
        self._spill()
        for _, writer in sorted(self._buckets.items()):
            writer.close()
            yield from sorted(_read(writer.path), key=_digest)
            writer.path.unlink()

    def _spill(self) -> None:
        by_bucket: dict[int, list[tuple[Example, bytes]]] = {}
        for pair in self._held:
            by_bucket.setdefault(pair[1][0] * _BUCKETS // 256, []).append(pair)
        for bucket, pairs in by_bucket.items():
            if bucket not in self._buckets:
                self._buckets[bucket] = _Writer(self._scratch.file())
            self._buckets[bucket].write(pairs)
        self._held, self._budget = [], _Budget()


def _digest(pair: tuple[Example, bytes]) -> bytes:
    return pair[1]


class _Writer:
    """An Arrow stream of examples and their digests."""

    def __init__(self, path: Path) -> None:
        import pyarrow

        self.path = path
        text, number = pyarrow.string(), pyarrow.int32()
        self._schema = pyarrow.schema(
            {
                "prompt": text, "completion": text, "ending": text, "turns": pyarrow.list_(number),
                "muted": pyarrow.list_(number), "is_chat": pyarrow.bool_(), "place": text, "topic": text,
                "digest": pyarrow.binary(),
            }
        )  # fmt: skip
        self._writer = pyarrow.ipc.new_stream(str(path), self._schema)

    def write(self, pairs: Iterable[tuple[Example, bytes]]) -> None:
        import pyarrow

        source = iter(pairs)
        while part := list(itertools.islice(source, _BATCH)):
            columns = zip(*(_flat(example, digest) for example, digest in part), strict=True)
            arrays = [pyarrow.array(column, kind) for column, kind in zip(columns, self._schema.types, strict=True)]
            self._writer.write_batch(pyarrow.record_batch(arrays, schema=self._schema))

    def close(self) -> None:
        self._writer.close()


def _flat(example: Example, digest: bytes) -> tuple[Any, ...]:
    turns, muted = ([edge for turn in spans for edge in turn] for spans in (example.turns, example.muted))
    texts = (example.prompt, example.completion, example.ending)
    return (*texts, turns, muted, example.is_chat, example.place, example.topic, digest)


def _read(path: Path) -> Iterator[tuple[Example, bytes]]:
    import pyarrow

    with pyarrow.OSFile(str(path)) as file:
        for batch in pyarrow.ipc.open_stream(file):
            for prompt, completion, ending, turns, muted, is_chat, place, topic, digest in zip(
                *(column.to_pylist() for column in batch.columns), strict=True
            ):
                spans = (tuple(zip(edges[::2], edges[1::2], strict=True)) for edges in (turns, muted))
                learnt, silent = spans
                yield Example(prompt, completion, ending, learnt, is_chat, place, topic, silent), digest
