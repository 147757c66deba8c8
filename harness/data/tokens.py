"""Tokenized data in Arrow files, cached by content: made once, shared by the runs of a sweep, mapped into memory."""

from __future__ import annotations

import dataclasses
import importlib.metadata
import json
import tempfile
from array import array
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from harness.data.encode import Encoded, encoded
from harness.data.format import Example
from harness.data.prepare import Prepared, prepare
from harness.data.token_rows import TokenRows
from harness.records import base
from harness.records.data_check import Lengths
from harness.records.identity import data_identity, digest
from harness.records.record import DataCounts, write_text
from harness.records.settings import DataSpec, LossOn
from harness.sources import packages
from harness.sources.cache import cached_folder, remove_left

PARTS = ("train", "validation", "test")
VERSION = 5  # raised when the same rows give other tokens
NUM_BINS = 16
_BATCH = 5_000
_TOLD_EVERY = 5_000


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """Settings that determine the tokens beside the data; `model_content` identifies the tokenizer."""

    model_content: str | None
    max_length: int
    loss_on: LossOn


@dataclass(frozen=True)
class Tokenized:
    """The three sets as token rows, what was counted on the way, and the lengths before long rows were left out."""

    train: TokenRows
    validation: TokenRows
    test: TokenRows
    counts: DataCounts
    lengths: dict[str, Lengths]


def tokenized(
    spec: DataSpec, tokenizer: Any, wanted: Wanted, progress: Callable[[str, int], None] = lambda *_: None
) -> Tokenized:
    """Return the tokens of a data configuration, from the cache or made now.

    Data whose content is not known are made anew each time.

    Raises:
        ValueError: as `prepare` and `encode`, or every training row is too long.
    """
    folder = cached(spec, wanted)
    prepared: Callable[[], Prepared] = partial(
        prepare, spec, tokenizer, progress=lambda rows: progress("reading", rows)
    )
    write(prepared, tokenizer, wanted, folder, progress)
    return _read(folder)


def cached(spec: DataSpec, wanted: Wanted) -> Path:
    """Return the folder of the tokens, named by all that determines them; they may not be there yet.

    If the content of the data or of the model is not known, the folder is a new one.
    """
    root = packages.cache_dir() / "tokens"
    if spec.content is None or wanted.model_content is None:
        root.mkdir(parents=True, exist_ok=True)
        remove_left(root, ".unnamed-*")
        return Path(tempfile.mkdtemp(dir=root, prefix=".unnamed-")) / "tokens"
    versions = {name: importlib.metadata.version(name) for name in ("tokenizers", "transformers", "jinja2", "pyarrow")}
    identity = [VERSION, versions, data_identity(spec), _policies(spec), dataclasses.asdict(wanted)]
    return root / (digest([*identity, "a"]) + digest([*identity, "b"]))


def _policies(spec: DataSpec) -> list[str]:
    """Settings that may refuse the data: a set that was made under one is not taken for checked under another."""
    return [getattr(spec, field.name) for field in dataclasses.fields(spec) if field.name.startswith("on_")]


def write(
    prepare: Callable[[], Prepared],
    tokenizer: Any,
    wanted: Wanted,
    folder: Path,
    progress: Callable[[str, int], None],
) -> None:
    """Tokenize what `prepare` returns into a folder, all of it or nothing, unless it is there and whole."""

    def fill(into: Path) -> None:
        prepared, lengths = prepare(), {}
        for part in PARTS:
            settings: tuple[LossOn, bool] = (wanted.loss_on, True) if part == "train" else ("completion", False)
            rows = encoded(_told(getattr(prepared, part), part, progress), tokenizer, *settings)
            lengths[part] = _write_rows(rows, wanted.max_length, into / f"{part}.arrow", part)
        _write_counts(prepared, lengths, into / "counts.json")

    cached_folder(folder, fill, by_content=True)


def _told(examples: Iterable[Example], part: str, progress: Callable[[str, int], None]) -> Iterable[Example]:
    for number, example in enumerate(examples, start=1):
        if number % _TOLD_EVERY == 0:
            progress(f"tokens of {part}", number)
        yield example


def _write_rows(rows: Iterable[Encoded], max_length: int, path: Path, part: str) -> Lengths:
    """Write the rows that are short enough; return the lengths of all."""
    import pyarrow

    ids, marks, few = (pyarrow.list_(kind) for kind in (pyarrow.int32(), pyarrow.int8(), pyarrow.int32()))
    schema = pyarrow.schema({"input_ids": ids, "completion_mask": marks, "answer_characters": few})
    lengths, batch = array("I"), list[Encoded]()
    with pyarrow.ipc.new_file(str(path), schema) as writer:

        def flush() -> None:
            rows = [encoded.row() for encoded in batch]
            arrays = [pyarrow.array([row[field.name] for row in rows], field.type) for field in schema]
            writer.write_batch(pyarrow.record_batch(arrays, schema=schema))
            batch.clear()

        for row in rows:
            lengths.append(len(row.ids))
            if len(row.ids) <= max_length:
                batch.append(row)
                if len(batch) == _BATCH:
                    flush()
        if batch:
            flush()
    return summary(lengths, max_length, part)


def summary(lengths: array[int], max_length: int, part: str) -> Lengths:
    """Return the distribution of lengths, and the rows and tokens that `max_length` leaves out."""
    import numpy as np

    values = np.asarray(lengths, dtype=np.int64)
    over = values[values > max_length]
    edges = np.linspace(0, max(1, int(values.max(initial=1))), NUM_BINS + 1).round().astype(int)
    edges = np.unique(edges)
    counts, _ = np.histogram(values, bins=edges)
    quantiles = np.percentile(values, [0, 50, 95, 99, 100]) if len(values) else [0] * 5
    return Lengths(
        part=part,
        rows=len(values),
        tokens=int(values.sum()),
        quantiles=tuple(float(quantile) for quantile in quantiles),
        max_length=max_length,
        rows_over=len(over),
        tokens_over=int((over - max_length).sum()),
        bins=tuple((int(a), int(b), int(n)) for a, b, n in zip(edges, edges[1:], counts, strict=False)),
    )


def _write_counts(prepared: Prepared, lengths: dict[str, Lengths], path: Path) -> None:
    remaining = {part: lengths[part].rows - lengths[part].rows_over for part in PARTS}
    if not remaining["train"]:
        raise ValueError(
            f"train.max_length={lengths['train'].max_length}: every training row is longer; nothing is left"
        )
    counts = DataCounts(
        train_rows=remaining["train"],
        validation_rows=remaining["validation"],
        test_rows=remaining["test"],
        removed_in_test=prepared.removed_in_test,
        removed_duplicates=prepared.removed_duplicates,
        removed_too_long=sum(part_lengths.rows_over for part_lengths in lengths.values()),
        content_sha256=prepared.content_sha256,
        removed=prepared.removed,
    )
    both = {"counts": dataclasses.asdict(counts), "lengths": {k: dataclasses.asdict(v) for k, v in lengths.items()}}
    write_text(json.dumps(both, sort_keys=True), path)


def _read(folder: Path) -> Tokenized:
    text = (folder / "counts.json").read_text(encoding="utf-8")
    stored = json.loads(text)
    counts = base.parsed(DataCounts, stored["counts"])
    lengths = base.parsed(dict[str, Lengths], stored["lengths"])
    train, validation, test = (TokenRows(folder / f"{part}.arrow") for part in PARTS)
    return Tokenized(train, validation, test, counts, lengths)
