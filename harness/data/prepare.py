"""Training, validation and test examples of a data configuration, split by content: file order does not matter."""

import dataclasses
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from harness.data.format import Example, place, render
from harness.data.rows import Row, jsonl, official
from harness.experiment import canonical
from harness.specs import DataSpec, RowsSpec


@dataclass(frozen=True)
class Prepared:
    """The three sets, what was removed on the way (before `max_rows`), and the hash of all examples in order."""

    train: tuple[Example, ...]
    validation: tuple[Example, ...]
    test: tuple[Example, ...]
    removed_in_test: int
    removed_duplicates: int
    content_sha256: str


def with_test_file(spec: DataSpec) -> DataSpec:
    """The same data with `test_file` among its test rows, formatted as the training rows of a file are.

    Raises:
        ValueError: there is a test file, and no training rows from a file to take the templates from.
    """
    if spec.test_file is None or any(rows.file == spec.test_file for rows in spec.test):
        return spec
    formats = [rows for rows in spec.train if rows.file is not None]
    if not formats:
        raise ValueError(
            f"data.test_file={spec.test_file}: data={spec.name} trains on no file whose format it could share; "
            "use data=file, or leave data.test_file=null"
        )
    return dataclasses.replace(spec, test=(*spec.test, dataclasses.replace(formats[0], file=spec.test_file)))


def check_origin(rows: RowsSpec) -> None:
    """Refuse rows that name both a data set and a file, or neither.

    Raises:
        ValueError: says what to give.
    """
    if (rows.file is None) == (rows.dataset is None):
        raise ValueError(
            f"rows with dataset={rows.dataset} and file={rows.file}: exactly one of the two is needed. "
            "With data=file, give data.file=<JSON Lines file>"
        )
    if rows.dataset is not None and rows.split is None:
        raise ValueError(f"rows of dataset={rows.dataset} need a split, as in split=train")


def prepare(spec: DataSpec) -> Prepared:
    """Read, format, deduplicate, decontaminate and split.

    A training row goes if an equal one was there before, or if its prompt occurs in a test set; case and white space
    do not tell prompts apart. Which side a row is on and the order of the rows depend on their content alone, and
    equal prompts are on the same side.

    Raises:
        ValueError: rows that cannot be had or formatted, or nothing left to train on or to validate with.
    """
    spec = with_test_file(spec)
    test = tuple(_examples(spec.test, spec))
    given = list(_examples(spec.train, spec))
    unique = list(dict.fromkeys(given))
    forbidden = {key(example) for example in test}
    kept = sorted((example for example in unique if key(example) not in forbidden), key=_order)
    validation = tuple(example for example in kept if _fraction(example) < spec.validation_fraction)
    train = tuple(example for example in kept if _fraction(example) >= spec.validation_fraction)[: spec.max_rows]
    _check_not_empty(spec, len(given), train, validation)
    return Prepared(
        train=train,
        validation=validation,
        test=test,
        removed_in_test=len(unique) - len(kept),
        removed_duplicates=len(given) - len(unique),
        content_sha256=_sha256([[dataclasses.astuple(e) for e in part] for part in (train, validation, test)]),
    )


def key(example: Example) -> str:
    """What tells prompts apart: case folded, white space collapsed; the completion where there is no prompt."""
    return normalise(example.prompt) or normalise(example.completion)


def normalise(text: str) -> str:
    """Text without the differences that do not make another question."""
    return " ".join(text.casefold().split())


def _examples(parts: Iterable[RowsSpec], spec: DataSpec) -> Iterable[Example]:
    for rows in parts:
        yield from render(_rows(rows, spec), rows)


def _rows(rows: RowsSpec, spec: DataSpec) -> list[Row]:
    check_origin(rows)
    if rows.file is not None:
        return jsonl(Path(rows.file))
    assert rows.dataset is not None, "check_origin has seen to it"
    assert rows.split is not None, "check_origin has seen to it"
    return official(rows.dataset, rows.subset, rows.split, spec.source, spec.path)


def _sha256(value: object) -> str:
    return hashlib.sha256(canonical(value).encode()).hexdigest()


def _order(example: Example) -> str:
    return _sha256(dataclasses.astuple(example))


def _fraction(example: Example) -> float:
    """A number in [0, 1) that depends on the prompt alone."""
    return int(hashlib.sha256(key(example).encode()).hexdigest()[:13], 16) / 16**13


def _check_not_empty(
    spec: DataSpec, num_given: int, train: tuple[Example, ...], validation: tuple[Example, ...]
) -> None:
    for part, examples in (("training", train), ("validation", validation)):
        if not examples:
            places = ", ".join(place(rows) for rows in spec.train) or "no rows at all"
            raise ValueError(
                f"data={spec.name}: no {part} rows are left of {num_given} ({places}) with validation_fraction="
                f"{spec.validation_fraction}, after duplicates and prompts that occur in the test rows were removed: "
                "give more rows or another data.validation_fraction"
            )
