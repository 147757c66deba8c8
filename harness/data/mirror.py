"""A local mirror of data sets: a file for each split, or repositories as `hf download --local-dir` leaves them."""

import re
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from harness.data import layout
from harness.data.files import Found, stream
from harness.records import base

SUFFIXES = (".parquet", ".jsonl", ".arrow")
_PART = re.compile(r"(.+)-\d{5}-of-\d{5}")  # how the Hub names the files of a split


def split_files(dataset: str, subset: str | None, split: str, folder: str | None) -> list[Path]:
    """Return the files of one split.

    They are `<folder>/<dataset>/<subset or nothing>/<split>.<suffix>`, or those of the repository in
    `<folder>/<dataset>`, by their names or by what its README declares.

    Raises:
        ValueError: no folder was given, or it has no such split; lists those it has.
    """
    root = _root(dataset, folder)
    paths = _named(root, subset) or _declared(root, subset)
    if split not in paths:
        place = root / (subset or "")
        raise ValueError(
            f"no split {split!r} in {place}, which has {', '.join(sorted(paths)) or 'no rows at all'}: put "
            f"{split}.parquet, {split}.jsonl or {split}.arrow there, or the Hub's repository (hf download {dataset} "
            f"--repo-type dataset --local-dir {root}), or use source=package or source=hub"
        )
    layout.check_shards(paths[split], root)
    return paths[split]


def splits(dataset: str, subset: str | None, folder: str | None) -> list[str]:
    """Return the splits that a mirror holds of a data set, sorted; none if it has no rows of it.

    Raises:
        ValueError: no folder was given, or a repository in it has no such subset.
    """
    root = _root(dataset, folder)
    return sorted(_named(root, subset) or _declared(root, subset))


def files(dataset: str, subset: str | None, folder: str) -> list[Path]:
    """Return every file that rows of a data set may be read from, sorted; none if the mirror lacks it."""
    root = Path(folder) / dataset
    named = [file for paths in _named(root, subset).values() for file in paths]
    every = (file for file in root.rglob("*") if file.is_file())
    visible = (file for file in every if not any(part.startswith(".") for part in file.relative_to(root).parts))
    return sorted(named or visible)


def split_rows(dataset: str, subset: str | None, split: str, folder: str | None) -> Iterator[Found]:
    """Yield the numbered rows of one split. Raises ValueError as `split_files` does."""
    files = split_files(dataset, subset, split, folder)
    root = _root(dataset, folder)
    if not _named(root, subset):
        yield from enumerate(_by_datasets(root, subset, split), start=1)
        return
    if len(files) == 1:
        yield from stream(files[0])
        return
    yield from enumerate((row for file in files for _, row in stream(file)), start=1)


def _root(dataset: str, folder: str | None) -> Path:
    if folder is None:
        raise ValueError(
            "source=path needs the mirror's folder: give path=<folder>, or use source=package or source=hub"
        )
    return Path(folder) / dataset


def _named(root: Path, subset: str | None) -> dict[str, list[Path]]:
    """Return splits by the names of their files: `test.parquet`, or all of test-00000-of-00002.parquet and so on."""
    whole: dict[str, list[Path]] = {}
    parts: dict[str, list[Path]] = defaultdict(list)
    for place in (root / (subset or ""), root / "data" / (subset or "")):
        for file in sorted(file for file in place.glob("*") if file.suffix in SUFFIXES):
            part = _PART.fullmatch(file.stem)
            if part:
                parts[part[1]].append(file)
            else:
                whole.setdefault(file.stem, [file])
    return {**parts, **whole}


def _declared(root: Path, subset: str | None) -> dict[str, list[Path]]:
    """Return splits as `datasets` resolves them: by the README's `configs`, or by patterns of its own."""
    if not root.is_dir():
        return {}
    from datasets import load_dataset_builder

    try:
        declared = load_dataset_builder(str(root), subset).config.data_files or {}
    except FileNotFoundError:  # nothing there that holds rows
        return {}
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"{root}: {base.first_line(error)}") from error
    return {str(split): [Path(file) for file in files] for split, files in declared.items()}


def _by_datasets(root: Path, subset: str | None, split: str) -> Any:
    from datasets import load_dataset

    return load_dataset(str(root), subset, split=split)
