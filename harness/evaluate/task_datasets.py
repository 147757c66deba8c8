"""Data sets that an lm-eval task reads, from its task files alone: they identify the task, without importing torch."""

from __future__ import annotations

import functools
import importlib.metadata
import json
import re
from collections.abc import Iterable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import yaml

from harness.sources import cache, packages

DataSet = tuple[str, str | None]  # dataset_path and dataset_name of a task's file
_Config = dict[str, Any]


class _Loader(yaml.CSafeLoader if yaml.__with_libyaml__ else yaml.SafeLoader):  # type: ignore[misc]
    """YAML loader that ignores the functions that task files name."""


_Loader.add_multi_constructor("!", lambda loader, suffix, node: None)
_DEFINED = re.compile(r"^(?:task|group): *['\"]?([\w.-]+)", re.MULTILINE)


def data_sets(name: str, include: str | None) -> set[DataSet]:
    """Return the data sets of a task, or of every task of a group; none if no task file names one.

    `include` is a folder of the user's own task files, which go before lm-eval's.
    """
    configs = {} if include is None else _index(Path(include))
    sets: set[DataSet] = set()
    todo: list[tuple[str, _Config]] = [(name, {})]
    seen = []
    while todo:
        task, changes = todo.pop()
        if (task, changes) in seen:
            continue
        seen.append((task, changes))
        if task not in configs and task in _folders():
            configs = {**_index(_folders()[task]), **configs}
        config = {**configs.get(task, {}), **changes}
        if isinstance(config.get("dataset_path"), str):
            subset = config.get("dataset_name")
            sets.add((config["dataset_path"], None if subset is None else str(subset)))
        if "group" in config:
            todo += _members(config.get("task"))
    return sets


def defined(file: Path) -> list[str]:
    """Return the tasks and groups that a YAML file defines, without parsing it."""
    return _DEFINED.findall(file.read_text("utf-8", errors="replace"))


def data_files(folder: Path) -> Iterator[Path]:
    """Yield the local data files that the task files of a folder name."""
    for config in _index(folder).values():
        yield from _files(config)


def index_file(kind: str) -> Path:
    """Return the path of the cached index of lm-eval: `tasks` with their folders, or `tags` with their tasks."""
    return packages.cache_dir() / f"lm-eval-{importlib.metadata.version('lm_eval')}-{kind}.txt"


def _members(task: Any) -> Iterator[tuple[str, _Config]]:
    """Yield (name, overrides by the group) of each task, tag or group in its list, including nested ones."""
    for item in task if isinstance(task, list) else [task]:
        if isinstance(item, str):
            yield item, {}
        elif isinstance(item, dict) and "group" in item:
            yield str(item["group"]), {}
            yield from _members(item.get("task"))
        elif isinstance(item, dict):
            yield str(item.get("task")), {key: value for key, value in item.items() if key != "task"}


def _files(config: Any) -> Iterator[Path]:
    if not isinstance(config, dict):
        return
    options, members = config.get("dataset_kwargs"), config.get("task")
    given = options.get("data_files") if isinstance(options, dict) else None
    for text in _texts(given):
        yield from (file for file in _matching(text) if file.is_file())
    for part in members if isinstance(members, list) else ():
        yield from _files(part)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    for part in value.values() if isinstance(value, dict) else value if isinstance(value, list) else ():
        yield from _texts(part)


def _matching(pattern: str) -> Iterable[Path]:
    """Return a file, or the files that match a glob pattern, relative to the working folder as in `datasets`."""
    path = Path(pattern)
    if path.exists() or not re.search(r"[*?\[]", pattern):
        return [path]
    base = Path(path.anchor) if path.is_absolute() else Path()
    return sorted(base.glob(str(path.relative_to(path.anchor))))


@functools.cache
def _folders() -> dict[str, Path]:
    """Return the folder of each of lm-eval's own tasks and groups."""
    spec = find_spec("lm_eval")
    assert spec is not None and spec.origin is not None, "it is a dependency"
    root = Path(spec.origin).parent
    if (text := cache.read_text(index_file("tasks"))) is not None:
        listed: dict[str, str] = json.loads(text)
        return {name: root / folder for name, folder in listed.items()}
    # fallback until lm-eval's index is cached, which takes longer to build
    files = sorted((root / "tasks").rglob("*.yaml"))
    return {name: file.parent for file in files for name in defined(file)}


def _index(folder: Path) -> dict[str, _Config]:
    """Return the configurations in a folder by their task or group; a tag becomes a group of the tasks that have it."""
    configs: dict[str, _Config] = {}
    tagged: dict[str, list[str]] = {}
    for file in sorted(folder.rglob("*.yaml")):
        config = _config(file)
        name = config.get("group") or config.get("task")
        if isinstance(name, str):
            configs.setdefault(name, config)
            for tag in _texts(config.get("tag")):
                tagged.setdefault(tag, []).append(name)
    return {**{tag: {"group": tag, "task": list(names)} for tag, names in tagged.items()}, **configs}


def _config(file: Path, depth: int = 0) -> _Config:
    """Return the configuration of a file with its includes; {} for a file that is no valid task file.

    The error for such a file is left to lm-eval.
    """
    try:
        config = yaml.load(file.read_bytes(), Loader=_Loader)
    except (OSError, yaml.YAMLError):
        return {}
    if not isinstance(config, dict) or depth > 9:
        return {}
    merged: _Config = {}
    for text in _texts(config.pop("include", None)):
        merged.update(_config(file.parent / text, depth + 1))
    return {**merged, **config}
