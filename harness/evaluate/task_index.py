"""Index of the available tasks, lm-eval's own and the user's, and of the folders that define them."""

from __future__ import annotations

import difflib
import functools
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import lm_eval
from lm_eval.tasks import TaskManager
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from harness.evaluate.task_datasets import index_file
from harness.sources import cache

_Index = dict[str, Entry]


def manager(name: str, include: str | None, setting: str = "eval.tasks") -> tuple[TaskManager, list[Path]]:
    """Return lm-eval's index over the folders that a task or group needs, and these folders; the user's own come first.

    Raises:
        ValueError: there is no such task.
    """
    own = None if include is None else TaskManager(include_defaults=False, include_path=include)
    if own is not None and include is not None and name in own.task_index:
        index, places = own, [Path(include)]
        _refuse_tag(own.task_index[name], setting)
    else:
        places = [folder_of(name, setting)]
        index = _of(places[0])
    _complete(name, index.task_index, places)
    return index, places


def _refuse_tag(entry: Entry, setting: str) -> None:
    if entry.kind is Kind.TAG:
        some = ", ".join(sorted(entry.tags)[:20])
        raise ValueError(f"{setting}={entry.name} is a tag, without a score of its own: name some of its tasks, {some}")


def refuse_unscored(name: str, index: _Index, setting: str = "eval.tasks") -> None:
    """Refuse a group to which lm-eval gives no score of its own, before thousands of items are asked for nothing.

    Raises:
        ValueError: it is one; names its tasks.
    """
    entry = index[name]
    if entry.kind is not Kind.GROUP or entry.yaml_path is None:
        return
    config = load_yaml(entry.yaml_path, resolve_func=False)
    if not config.get("aggregate_metric_list"):
        members = dict.fromkeys(member for member in _members(config.get("task")) if member in index)
        some = ", ".join(list(members)[:20])
        raise ValueError(
            f"{setting}={name} is a group without a score of its own (its file has no aggregate_metric_list): "
            f"name some of its tasks, {some}"
        )


def _of(folder: Path) -> TaskManager:
    return TaskManager(include_defaults=False, include_path=str(folder))


def _complete(name: str, index: _Index, places: list[Path]) -> None:
    """Add the members of a group that other folders of lm-eval define."""
    todo, seen = [name], set[str]()
    while todo:
        task = todo.pop()
        if task in seen:
            continue
        seen.add(task)
        if task not in index and task in _official():
            places.append(_root() / _official()[task])
            index.update({key: entry for key, entry in _of(places[-1]).task_index.items() if key not in index})
        entry = index.get(task)
        if entry is not None and entry.kind is Kind.GROUP and entry.yaml_path is not None:
            todo += _members(load_yaml(entry.yaml_path, resolve_func=False).get("task"))
        elif entry is not None and entry.kind is Kind.TAG:
            todo += entry.tags


def _members(task: Any) -> Iterator[str]:
    """Yield the names of tasks, tags and groups in a group's list, including those of nested groups."""
    for item in task if isinstance(task, list) else [task]:
        if isinstance(item, str):
            yield item
        elif isinstance(item, dict):
            yield from _members(item.get("group"))
            yield from _members(item.get("task"))


def folder_of(name: str, setting: str) -> Path:
    """Return the folder that defines one of lm-eval's own tasks or groups.

    Raises:
        ValueError: there is none. The message names similar tasks, or the tasks of a tag.
    """
    folders = _official()
    if name not in folders:
        version = importlib.metadata.version("lm_eval")
        raise ValueError(f"{setting}: lm-eval {version} has no task {name!r}.{_instead(name, folders)}")
    return _root() / folders[name]


def is_official(entry: Entry) -> bool:
    """Return whether a task's file is one of lm-eval's own."""
    return entry.yaml_path is not None and entry.yaml_path.resolve().is_relative_to(_root().resolve())


def _root() -> Path:
    return Path(lm_eval.__file__ or "").parent


def _official() -> dict[str, str]:
    """Return the folder of each task and group, from a cache: lm-eval reads some 14,000 files to find them."""
    text = cache.read_text(index_file("tasks"))
    if text is None:
        entries = TaskManager().task_index
        tags = {name: sorted(entry.tags) for name, entry in entries.items() if entry.kind is Kind.TAG}
        cache.write_text(json.dumps(tags, sort_keys=True), index_file("tags"))
        folders = {n: str(e.yaml_path.parent.relative_to(_root())) for n, e in entries.items() if e.yaml_path}
        text = json.dumps(folders, sort_keys=True)
        cache.write_text(text, index_file("tasks"))
    return _parsed(text)


@functools.cache
def _parsed(text: str) -> dict[str, str]:
    folders: dict[str, str] = json.loads(text)
    return folders


def _instead(name: str, folders: dict[str, str]) -> str:
    tags = json.loads(cache.read_text(index_file("tags")) or "{}")
    if name in tags:
        return f" It is a tag, without a score of its own: name some of its tasks, {', '.join(tags[name][:20])}"
    close = difflib.get_close_matches(name, folders, n=5)
    return f" Did you mean {', '.join(close)}?" if close else " `lm_eval ls tasks` lists them."
