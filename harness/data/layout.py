"""Layout of a folder of rows: which of its files hold the rows of one split."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

# file names of the Hub and of `datasets`: train-00000-of-00002.parquet, gsm8k-train-00000-of-00002.arrow
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?:\D.*)?")
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|validation|valid|val|dev|test|eval|evaluation|heldout|held_out|holdout)"
    r"(?:ing|s|set|data|split)?(?:[^a-z]|$)",
    re.IGNORECASE,
)
_ALIKE = {
    "dev": "validation", "valid": "validation", "val": "validation", "eval": "test", "evaluation": "test",
    "heldout": "test", "held_out": "test", "holdout": "test", "training": "train", "testing": "test",
}  # fmt: skip
_DESCRIPTIONS = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # of `save_to_disk`


def files_of(folder: Path, split: str | None, kinds: Iterable[str]) -> list[Path]:
    """Return the files of a folder that hold the rows of one split, sorted: of one kind, and no shard missing.

    They are the files that `state.json` names where `datasets.save_to_disk` wrote it, else those whose names tell the
    split. A folder of one split alone needs no `split`.

    Args:
        folder: the folder, or one that has a folder for each split.
        split: name of the split; None where the folder has one.
        kinds: suffixes of the files that can be read.

    Raises:
        ValueError: no files of rows, files of several kinds, several splits and none named, or a missing shard.
    """
    if split is not None and (folder / split).is_dir():
        return files_of(folder / split, None, kinds)
    files = _of_split(_saved(folder) or _readable(folder, kinds), split, folder)
    suffixes = {suffix(file) for file in files}
    if len(suffixes) != 1:
        held = f"files of several kinds ({', '.join(sorted(suffixes))})" if suffixes else "no file of rows"
        folders = [] if suffixes else [entry for entry in folder.iterdir() if entry.is_dir()]
        below = sorted(entry.name for entry in folders if _readable(entry, kinds))
        way = f"give one kind of {', '.join(kinds)}"
        if below:
            held = f"{held} but folders ({', '.join(below)})"
            way = f"give one of them, as in {folder / ('train' if 'train' in below else below[0])}"
        raise ValueError(f"{folder}: the folder has {held}; {way}")
    check_shards(files, folder)
    return files


def suffix(file: Path) -> str:
    """Return the suffix of a file in lower case, with the one before .gz."""
    return ("".join(file.suffixes[-2:]) if file.suffix.lower() == ".gz" else file.suffix).lower()


def check_shards(files: Iterable[Path], folder: Path) -> None:
    """Check that no shard is missing, as after a download that was interrupted.

    Raises:
        ValueError: names the shards that are not there.
    """
    shards: dict[tuple[str, int], set[int]] = defaultdict(set)
    for file in files:
        if shard := _SHARD.fullmatch(file.stem):
            shards[shard["name"], int(shard["of"])].add(int(shard["number"]))
    for (name, number), there in shards.items():
        if missing := sorted(set(range(number)) - there):
            first = ", ".join(f"{name}-{shard:05}-of-{number:05}" for shard in missing[:3])
            raise ValueError(
                f"{folder}: {len(missing)} of {number} files of {name} are missing ({first}); download them again, or "
                "give a single file"
            )


def _readable(folder: Path, kinds: Iterable[str]) -> list[Path]:
    """Return the files of a folder that can hold rows; hidden files are none, as in `datasets`."""
    return sorted(
        file
        for file in folder.iterdir()
        if suffix(file) in kinds and file.name not in _DESCRIPTIONS and not file.name.startswith((".", "__"))
    )


def _saved(folder: Path) -> list[Path]:
    """Return the files that `Dataset.save_to_disk` names in `state.json`; others beside them are caches."""
    state = folder / "state.json"
    if not state.is_file():
        return []
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        files = [folder / str(entry["filename"]) for entry in content["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{state}: not what datasets' save_to_disk writes ({error}); save the data again") from error
    if missing := [file.name for file in files if file.parent != folder or not file.is_file()]:
        raise ValueError(f"{state}: it names {', '.join(missing)}, which is not in the folder; save the data again")
    return files


def _of_split(files: list[Path], split: str | None, folder: Path) -> list[Path]:
    """Return the files of one split.

    Raises:
        ValueError: there are several splits and none is named, or not the one that is.
    """
    splits = {file: _split_of(file) for file in files}
    names = sorted({name for name in splits.values() if name})
    if split is None and len(set(splits.values())) > 1 and names:
        others = [file.name for file in files if not splits[file]]
        also = f" and {', '.join(others)} besides" if others else ""
        first = next((name for name in names if _same(name, "train")), names[0])
        raise ValueError(
            f"{folder}: the folder holds the splits {', '.join(names)}{also}; name one, as in data.train.0.split="
            f"{first}, or give its files in a folder of their own"
        )
    if split is None or not (names or split):
        return files
    exact = [file for file in files if splits[file] == split.lower()]
    chosen = exact or [file for file in files if _same(splits[file], split.lower())]
    if not chosen:
        raise ValueError(
            f"{folder}: no files of split={split}; the folder holds {', '.join(names) or 'files of no split'}"
        )
    return chosen


def _split_of(file: Path) -> str | None:
    """Return the split that a file's name tells, in lower case: the whole name before a shard's number."""
    if shard := _SHARD.fullmatch(file.stem):
        return shard["name"].rpartition("-")[2].lower()
    match = _SPLIT.search(file.stem)
    return match[1].lower() if match else None


def _same(name: str | None, split: str) -> bool:
    return name is not None and _ALIKE.get(name, name) == _ALIKE.get(split, split)
