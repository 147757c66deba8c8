"""Layout of a folder of rows: which of its files hold the rows of one split."""

import json
import re
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

import yaml

# file names of the Hub and of `datasets`: train-00000-of-00002.parquet, gsm8k-train-00000-of-00002.arrow
_SHARD = re.compile(r"(?P<name>.+)-(?P<number>\d{5})-of-(?P<of>\d{5})(?:\D.*)?")
_SPLIT = re.compile(
    r"(?:^|[^a-z])(train|validation|valid|val|dev|test|eval|evaluation|heldout|held_out|holdout)"
    r"(?:ing|s|set|data|split)?(?:[^a-z]|$)",
    re.IGNORECASE,
)
_WORDS = ("train", "validation", "valid", "val", "dev", "test", "eval", "heldout", "holdout")
_JOINT = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")  # between the words of camelCase
_ALIKE = {
    "dev": "validation", "valid": "validation", "val": "validation", "eval": "test", "evaluation": "test",
    "heldout": "test", "held_out": "test", "holdout": "test", "training": "train", "testing": "test",
}  # fmt: skip
_HEADER = re.compile(r"---\s*\n(.*?)\n---\s*(?:\n|$)", re.DOTALL)
_DESCRIPTIONS = ("state.json", "dataset_info.json", "dataset_infos.json", "dataset_dict.json")  # of `save_to_disk`


def files_of(folder: Path, split: str | None, kinds: Iterable[str]) -> list[Path]:
    """Return the files of a folder that hold the rows of one split, sorted: of one kind, and no shard missing.

    They are the files that `state.json` names where `datasets.save_to_disk` wrote it, or that the header of a README
    declares as on the Hub, else those whose names tell the split. A folder of one split alone needs no `split`.

    Args:
        folder: the folder, or one that has a folder for each split.
        split: name of the split; None where the folder has one.
        kinds: suffixes of the files that can be read.

    Raises:
        ValueError: no files of rows, files of several kinds, several splits and none named, or a missing shard.
    """
    below = _folders(folder, kinds)
    splits = _saved(folder) or _declared(folder) or _named(_readable(folder, kinds))
    if split in below:
        if both := [file.name for file, name in splits.items() if name == split]:
            raise ValueError(f"{folder}: split={split} is both the folder {split} and {', '.join(both)}; give one path")
        return files_of(folder / split, None, kinds)
    files = _of_split(splits, split, folder, below)
    suffixes = {suffix(file) for file in files}
    if len(suffixes) != 1:
        held = f"files of several kinds ({', '.join(sorted(suffixes))})" if suffixes else "no file of rows"
        below = [] if suffixes else below
        way = f"give one kind of {', '.join(kinds)}"
        if below:
            held = f"{held} but folders ({', '.join(below)})"
            way = f"give one of them, as in {folder / ('train' if 'train' in below else below[0])}"
        raise ValueError(f"{folder}: the folder has {held}; {way}")
    if odd := [file.name for file in files if not file.is_file()]:
        raise ValueError(f"{folder}: {', '.join(odd)} is not a file with rows (a folder, a pipe or a link to nothing)")
    check_shards(files, folder)
    return files


def _folders(folder: Path, kinds: Iterable[str]) -> list[str]:
    """Return the names of the folders below that hold rows, sorted."""
    return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and _readable(entry, kinds))


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


def _saved(folder: Path) -> dict[Path, str | None]:
    """Return the files that `Dataset.save_to_disk` names in `state.json`; others beside them are caches."""
    state = folder / "state.json"
    if not state.is_file():
        return {}
    try:
        content = json.loads(state.read_text(encoding="utf-8"))
        files = [folder / str(entry["filename"]) for entry in content["_data_files"]]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(f"{state}: not what datasets' save_to_disk writes ({error}); save the data again") from error
    if missing := [file.name for file in files if file.parent != folder or not file.is_file()]:
        raise ValueError(f"{state}: it names {', '.join(missing)}, which is not in the folder; save the data again")
    return dict.fromkeys(files)


def _declared(folder: Path) -> dict[Path, str | None]:
    """Return the files that the header of a README declares (`configs` with `data_files`), each with its split.

    Raises:
        ValueError: several configurations are declared, or files that are not in the folder.
    """
    configurations = _configurations(folder / "README.md")
    if len(configurations) > 1:
        names = ", ".join(str(entry.get("config_name")) for entry in configurations)
        raise ValueError(
            f"{folder}: its README.md declares the configurations {names}; give the files of one in a folder of its own"
        )
    files: dict[Path, str | None] = {}
    for entry in configurations:
        for split, pattern in _patterns(entry["data_files"]):
            is_inside = pattern and ".." not in Path(pattern).parts and not Path(pattern).is_absolute()
            matched = sorted(folder.glob(pattern)) if is_inside else []
            if not matched:
                raise ValueError(f"{folder}/README.md: it declares {pattern!r}, which is not in the folder")
            files |= dict.fromkeys(matched, split.lower())
    return files


def _configurations(readme: Path) -> list[dict[str, Any]]:
    """Return the configurations with files in a README's header, which is YAML between two lines of `---`."""
    if not readme.is_file():  # a pipe would be waited for
        return []
    try:
        header = _HEADER.match(readme.read_text(encoding="utf-8"))
        content = yaml.safe_load(header[1]) if header else None
    except (OSError, ValueError, yaml.YAMLError):
        return []
    entries = content.get("configs") if isinstance(content, dict) else None
    entries = entries if isinstance(entries, list) else []
    return [entry for entry in entries if isinstance(entry, dict) and entry.get("data_files")]


def _patterns(declared: Any) -> Iterator[tuple[str, str]]:
    """Yield (split, pattern of files) of `data_files`: text, a list, entries with a split, or a table of splits.

    Files without a split are those of train.
    """
    if isinstance(declared, dict) and "path" not in declared:
        declared = [{"split": split, "path": paths} for split, paths in declared.items()]
    for entry in declared if isinstance(declared, list) else [declared]:
        paths = entry.get("path") if isinstance(entry, dict) else entry
        split = entry.get("split", "train") if isinstance(entry, dict) else "train"
        for pattern in paths if isinstance(paths, list) else [paths]:
            yield (split if isinstance(split, str) else "train"), (pattern if isinstance(pattern, str) else "")


def _of_split(splits: dict[Path, str | None], split: str | None, folder: Path, below: Sequence[str]) -> list[Path]:
    """Return the files of one split.

    Raises:
        ValueError: there are several splits and none is named, or not the one that is.
    """
    files = list(splits)
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
            f"{folder}: no files of split={split}; the folder holds {', '.join(names or below) or 'files of no split'}"
        )
    return chosen


def _named(files: Iterable[Path]) -> dict[Path, str | None]:
    """Return each file with the split that its name tells, alone or beside another's: gsmtrain and gsmtest."""
    splits = {file: _split_of(file) for file in files}
    alike: dict[tuple[str, bool], dict[Path, str]] = defaultdict(dict)  # what names share -> the files, each by a word
    for file in [file for file, split in splits.items() if split is None]:
        stem = file.name.removesuffix(suffix(file)).lower()
        for word in _WORDS:
            if stem.endswith(word):
                alike[stem.removesuffix(word), True][file] = word
            if stem.startswith(word):
                alike[stem.removeprefix(word), False][file] = word
    for words in alike.values():
        splits |= words if len({*words.values()}) > 1 else {}
    return splits


def _split_of(file: Path) -> str | None:
    """Return the split that a file's name tells, in lower case: the whole name before a shard's number."""
    if shard := _SHARD.fullmatch(file.stem):
        return shard["name"].rpartition("-")[2].lower()
    match = _SPLIT.search(_JOINT.sub("_", file.stem))
    return match[1].lower() if match else None


def _same(name: str | None, split: str) -> bool:
    return name is not None and _ALIKE.get(name, name) == _ALIKE.get(split, split)
