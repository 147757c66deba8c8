"""One outcome per item, beside each evaluation, in Parquet.

Columns: `item_id` and `prompt_hash` (text; items of two runs are paired on the first), one `metric/<name>` (float) per
metric, and what else the task gives: `task` and `target` (text), `target_index` (of the right choice), `num_right` (of
an item with several right choices), `choices` and `loglikelihoods` (a list of texts and of floats, one a choice),
`answer` (text), `parsed` (whether an answer could be read, where one has to be), `num_tokens` (integer), `cluster`
(text: items that share a passage, a prompt or a document have the same).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records import disk, files

FEWEST_CLUSTERS = 10


def write(columns: dict[str, list[Any]], path: Path) -> None:
    """Write a table atomically.

    Raises:
        ValueError: the columns differ in length.
    """
    import pyarrow
    from pyarrow import parquet

    with files.atomic(path) as temporary:
        parquet.write_table(pyarrow.table(columns), temporary, compression="zstd")
        disk.flush_one(temporary)
        disk.note_file(path, temporary)


def row_ids(hashes: list[str]) -> list[str]:
    """Return an id for each row from the hash of its content, with a number that tells rows of equal content apart."""
    seen: dict[str, int] = {}
    ids = []
    for digest in hashes:
        ids.append(f"{digest}:{seen.get(digest, 0)}")
        seen[digest] = seen.get(digest, 0) + 1
    return ids


def clusters(shared: Sequence[str | None]) -> dict[str, list[str]]:
    """Return the column `cluster` for items by the text that they share; {} where none do, or too few clusters differ.

    Items of one cluster are no independent observations (Miller 2024, arXiv:2411.00640, section 2.2). A few clusters
    do not show how much they vary.
    """
    different = set(shared)
    if None in different or not FEWEST_CLUSTERS <= len(different) < len(shared):
        return {}
    return {"cluster": [text_hash(str(text))[:16] for text in shared]}


def text_hash(text: str) -> str:
    """Return the SHA-256 of a text, in hexadecimal."""
    return hashlib.sha256(text.encode()).hexdigest()
