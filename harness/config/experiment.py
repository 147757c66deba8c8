"""Description of one run, in frozen dataclasses that need neither torch nor Hydra, and its identities.

There are three identities (see `recipe` and `Evaluation`). The recipe determines the trained weights. The run is a
recipe and a seed. An evaluation is one task on a run.
"""

import dataclasses
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.methods.base import Method
from harness.records.base import Strict
from harness.records.evaluation import Evaluation as Evaluation
from harness.records.identity import canonical as canonical
from harness.records.identity import data_identity as data_identity
from harness.records.identity import digest as digest
from harness.records.identity import heldout_rows as heldout_rows
from harness.records.seeds import Seed, Streams, streams
from harness.records.settings import (
    GENERAL_TEXT,
    DataSpec,
    EvalSpec,
    Fallback,
    InferenceSpec,
    KernelSpec,
    LaunchSpec,
    ModelSpec,
    NonNegative,
    PlanSpec,
    Rate,
    Role,
    TrackingSpec,
    TrainSpec,
)

# the trained weights; those and the state of training at its end; neither, once they have been evaluated
Keep = Literal["adapter", "checkpoint", "none"]


@dataclass(frozen=True, kw_only=True)
class Experiment(Strict):
    """One run, completely described."""

    model: ModelSpec
    data: DataSpec
    method: Method
    train: TrainSpec
    eval: EvalSpec
    tracking: TrackingSpec
    launch: LaunchSpec = field(default_factory=LaunchSpec)
    seed: Seed
    lr_scale: Rate
    force: bool
    rerun: tuple[Literal["oom", "diverged"], ...] = ()  # results that are made again; failed runs always are
    max_retries: Annotated[int, Field(ge=0)] = 0  # further attempts after an infrastructure fault, within one call
    max_concurrent_trials: Annotated[int, Field(ge=1)] | None = None  # of a tuning stage; null: as many as fit
    keep: Keep = "adapter"  # files of a finished run that stay on disk beside its records
    runs_dir: Annotated[str, Field(min_length=1)]
    reports_dir: Annotated[str, Field(min_length=1)]
    inference: InferenceSpec = field(default_factory=InferenceSpec)
    plan: PlanSpec = field(default_factory=PlanSpec)
    price_per_device_hour: NonNegative | None = None  # in the user's own currency

    @property
    def recipe_id(self) -> str:
        """Return eight hex digits, the same for every seed of one recipe."""
        return digest(recipe(self))

    @property
    def run_seed(self) -> int:
        """Return the seed that identifies the run; 0 for untrained weights, which are evaluated once."""
        return self.seed if self.method.trains else 0

    @property
    def streams(self) -> Streams:
        """Return the seed of each stream of random numbers."""
        return streams(self.seed)

    @property
    def folder(self) -> Path:
        """Return the folder of the run's record, weights and evaluations."""
        return Path(self.runs_dir) / self.recipe_id / f"seed-{self.run_seed}"

    @property
    def weights_folder(self) -> Path:
        """Return the folder of the weights that must be kept beside the base model."""
        return self.folder / "weights"


@dataclass(frozen=True)
class Sizes:
    """Bytes that a run writes: its weights, and at most a checkpoint while it trains."""

    weights: int
    checkpoint: int

    def kept(self, keep: Keep) -> int:
        """Return the bytes that stay on disk."""
        return {"adapter": self.weights, "checkpoint": self.weights + self.checkpoint, "none": 0}[keep]


@dataclass(frozen=True, kw_only=True)
class Todo:
    """Work that a run still lacks.

    `weights_from` is the start of the attempt that made, or is about to make, the weights; None for untrained ones.
    """

    train: bool
    evaluations: tuple[Evaluation, ...]
    weights_from: str | None
    inference: bool = False  # whether to measure what using the result costs
    rung: Fallback | None = None  # batching of training; None: as requested


_METHOD_FACTS = ("lr_range", "display", "cite")  # fields of every method that determine no weights
# they change no weight of an ok run
_LOOKS_ONLY = (
    "eval_every", "patience", "divergence_factor", "divergence_steps", "oom", "checkpoint_seconds",
    "dataloader_num_workers",
)  # fmt: skip


def recipe(experiment: Experiment) -> dict[str, Any]:
    """Return the settings that determine the trained weights, without the seed: JSON-safe, resolved values.

    The content of the model and the data is part of it. Their source (a package, a hub, a folder) is not.
    """
    model = {"content": experiment.model.content, "name": experiment.model.name}
    if experiment.model.weights == "random":  # only where it is set: other recipes keep their identity
        model["weights"] = "random"
    if experiment.method.origin is not None:
        own = {"name": experiment.method.name, **experiment.method.known_settings()}
        return {"model": model, "method": own, "data": None, "train": None, "origin": experiment.method.origin}
    method = {"name": experiment.method.name, **dataclasses.asdict(experiment.method)}
    for fact in _METHOD_FACTS:
        del method[fact]
    for added, usual in experiment.method.added.items():
        if method[added] == usual:
            del method[added]
    if not experiment.method.trains:
        return {"model": model, "method": {"name": experiment.method.name}, "data": None, "train": None}
    data = {"name": experiment.data.name, **data_identity(experiment.data)}
    train = {k: v for k, v in dataclasses.asdict(experiment.train).items() if k not in _LOOKS_ONLY}
    for name in ("packing", "deterministic"):  # recipes from before these settings have neither
        if not train[name]:
            del train[name]
    usual = dataclasses.asdict(KernelSpec())
    kernels = {k: v for k, v in train.pop("kernels").items() if v != usual[k] and v is not False}  # auto may be off
    if kernels:
        train["kernels"] = kernels
    if experiment.train.oom.max_lengths:  # a run out of memory may then end with other weights
        train["max_lengths"] = list(experiment.train.oom.max_lengths)
    if experiment.train.patience is not None:  # validation then decides which weights are kept
        train["early_stopping"] = {
            "patience": experiment.train.patience,
            "every": experiment.train.eval_every,
            "rows": experiment.eval.heldout_limit,
        }
        if (
            experiment.eval.precision != experiment.train.precision
        ):  # only where they differ: earlier recipes have no such key
            train["early_stopping"]["precision"] = experiment.eval.precision
    return {"model": model, "method": method, "data": data, "train": train}


def evaluations(experiment: Experiment) -> tuple[Evaluation, ...]:
    """Return the evaluations that this experiment requests, in the order of a report's columns."""
    spec = experiment.eval
    roles: tuple[Role, ...] = ("validation", "test")
    parts = roles if spec.test == "always" and experiment.data.test else roles[:1]
    heldout = tuple(_heldout(experiment, role) for role in parts)
    tasks = spec.tasks if spec.test == "always" else ()
    written = (_generation(experiment, parts[-1]),) if spec.generation_rows and spec.test == "always" else ()
    text = (_general_text(experiment),) if spec.general_text_passages and spec.test == "always" else ()
    return tuple(dict.fromkeys((*heldout, *(_task(experiment, task) for task in tasks), *written, *text)))


def _heldout(experiment: Experiment, part: Role) -> Evaluation:
    return Evaluation(
        kind="heldout",
        task=f"{experiment.data.name}/{part}",
        role=part,
        rows=heldout_rows(experiment.data, experiment.train.max_length),
        limit=experiment.eval.heldout_limit,
        num_fewshot=None,
        chat_template=False,
        precision=experiment.eval.precision,
        train_precision=_train_precision(experiment),
        batch_size=None,
        batch_tokens=experiment.eval.batch_tokens,
        weights=_weights(experiment),
    )


def _task(experiment: Experiment, task: str) -> Evaluation:
    spec, retained = experiment.eval, task in experiment.eval.retention
    return Evaluation(
        kind="lm_eval",
        task=task,
        role="retention" if retained else "target",
        rows=spec.source,
        limit=spec.task_limits.get(task, spec.retention_limit if retained else spec.limit),
        num_fewshot=spec.num_fewshot,
        chat_template=spec.chat_template,
        precision=spec.precision,
        train_precision=_train_precision(experiment),
        batch_size=None if spec.backend == "vllm" else spec.batch_size,  # vLLM schedules by itself
        batch_tokens=spec.batch_tokens if spec.backend == "shared_prefix" else None,
        backend=spec.backend,
        definition=_definition(spec, task),
        weights=_weights(experiment),
    )


def _definition(spec: EvalSpec, task: str) -> str | None:
    """Return the identity of a task's files if they are the user's own, and of its rows if they are a mirror's."""
    own = spec.include_content if task in spec.include_names else None
    rows = spec.rows_content.get(task)
    return own if rows is None else ":".join((own or "", rows))


def _train_precision(experiment: Experiment) -> str | None:
    own = experiment.train.precision
    return own if own != experiment.eval.precision else None


def _weights(experiment: Experiment) -> str:
    """Return the weights to evaluate. An untrained model has nothing to merge, and is evaluated once."""
    spec = experiment.eval
    if not experiment.method.trains:
        return "attached"
    return f"converted-r{spec.converted_r}" if spec.weights == "converted" else spec.weights


def _generation(experiment: Experiment, part: Role) -> Evaluation:
    return dataclasses.replace(
        _task(experiment, f"{experiment.data.name}/generated/{part}"),
        kind="generation",
        limit=experiment.eval.generation_rows,
        batch_size=experiment.eval.batch_size,
        definition=heldout_rows(experiment.data, experiment.train.max_length),
        sampling=experiment.eval.sampling,
    )


def _general_text(experiment: Experiment) -> Evaluation:
    spec, definition = experiment.eval, "/".join(GENERAL_TEXT)
    passages = dataclasses.replace(
        _task(experiment, "general_text"), kind="text", role="retention", definition=definition
    )
    return dataclasses.replace(passages, limit=spec.general_text_passages, batch_tokens=spec.batch_tokens)


def check_id(experiment: Experiment) -> str:
    """Return the identity of a data check: the data, the policies that may refuse them, the tokenizer and the tasks."""
    data, spec = experiment.data, experiment.eval
    policies = {key: value for key, value in dataclasses.asdict(data).items() if key.startswith("on_")}
    topics = [[rows.topic, rows.license] for rows in (*data.train, *data.mix)]
    content: list[Any] = [spec.source, spec.path, spec.include_path, spec.unsafe_code, *spec.tasks]
    content += [part for part in (spec.include_content, *sorted(spec.rows_content.items())) if part is not None]
    train = [experiment.train.max_length, experiment.train.loss_on]
    model = [experiment.model.name, experiment.model.content, experiment.model.license]
    return digest([9, data.name, data.license, data_identity(data), policies, topics, model, train, content])
