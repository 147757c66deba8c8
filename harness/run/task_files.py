"""Content hashes that identify the items of tasks whose names do not: the user's task files and rows of a mirror."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from harness.data import mirror
from harness.evaluate import task_datasets
from harness.records.identity import digest
from harness.records.settings import EvalSpec
from harness.sources import hashes, packages


def identified(spec: EvalSpec) -> EvalSpec:
    """Return the spec with the content hashes of those files of the user that its tasks are read from.

    Raises:
        ValueError: eval.include_path is no folder, or it defines no task.
    """
    return with_mirrored(with_included(spec))


def with_included(spec: EvalSpec) -> EvalSpec:
    """Return the spec with the names of the user's own tasks, and a hash over every file of their folder.

    The hash includes data files elsewhere that the tasks name.

    Raises:
        ValueError: no such folder, or it defines no task.
    """
    if spec.include_path is None:
        return dataclasses.replace(spec, include_content=None, include_names=())
    folder = Path(spec.include_path)
    files = sorted(file for file in folder.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    names = {name for file in files if file.suffix in (".yaml", ".yml") for name in task_datasets.defined(file)}
    if not names:
        raise ValueError(
            f"eval.include_path={folder}: no task is defined there (looked from {Path.cwd()}): give a folder with "
            "lm-eval task files, each with a line `task: <name>`"
        )
    held = [(file.relative_to(folder).as_posix(), packages.file_sha256(file)) for file in files]
    inside = {file.resolve() for file in files}
    rows = {file.resolve() for file in task_datasets.data_files(folder)} - inside
    content = digest([*held, *sorted(hashes.file_sha256(file) for file in rows)])
    return dataclasses.replace(
        spec, include_path=str(folder.resolve()), include_content=content, include_names=tuple(sorted(names))
    )


def with_mirrored(spec: EvalSpec) -> EvalSpec:
    """Return the spec with a hash over the files of each task's data sets, if rows are read from a mirror."""
    if spec.source != "path" or spec.path is None:
        return dataclasses.replace(spec, rows_content={})
    path = spec.path
    found: dict[str, str] = {}
    known: dict[task_datasets.DataSet, list[str]] = {}
    for task in spec.tasks:
        contents = []
        for one in sorted(task_datasets.data_sets(task, spec.include_path), key=str):
            if one not in known:
                files = mirror.files(*one, path)
                known[one] = [f"{Path(file).name}:{hashes.file_sha256(file)}" for file in files]
            contents += known[one]
        found[task] = digest(sorted(set(contents)))
    return dataclasses.replace(spec, rows_content=found)
