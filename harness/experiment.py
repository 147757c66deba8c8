"""What one run is, in frozen dataclasses that need neither torch nor Hydra, and what identifies it.

Three identities are told apart (see `recipe` and `Evaluation`): the recipe determines the trained weights, the run is a
recipe and a seed, and an evaluation is a run looked at through one task.
"""

import dataclasses
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import ConfigDict, Field

from harness.methods.base import Method

Source = Literal["hub", "package", "path"]
Role = Literal["target", "retention", "validation", "test"]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]


class Strict:
    """Every schema refuses keys that it does not know."""

    __pydantic_config__ = ConfigDict(extra="forbid")


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Strict):
    """A base model and where its files are had from."""

    name: str
    source: Source
    hub_id: str | None = None
    revision: str | None = None  # a branch or tag is resolved to its commit before anything is identified by it
    package: str | None = None  # a key of conf/assets.yaml, read when source is "package"
    file: str | None = None  # the file inside the package
    path: str | None = None  # a local folder, read when source is "path"
    licence: str | None = None
    trust_remote_code: bool = False
    content: str | None = None  # what identifies the weights; filled by sources.resolve, never by hand
    # transformers' names of the sizes, and `of`: the Hub id that they are of. Planning reads it, training never
    architecture: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, kw_only=True)
class RowsSpec(Strict):
    """Some rows, and the jinja templates that make a prompt and a completion of each.

    Either `dataset` (with `subset` and `split`) names an official data set, or `file` a local JSON Lines file.
    """

    prompt: str
    completion: str
    dataset: str | None = None
    subset: str | None = None
    split: str | None = None
    file: str | None = None


@dataclass(frozen=True, kw_only=True)
class DataSpec(Strict):
    """What is trained on, what is held out, and which tasks the data are meant for."""

    name: str
    source: Source
    train: tuple[RowsSpec, ...]
    test: tuple[RowsSpec, ...] = ()
    validation_fraction: Annotated[float, Field(gt=0, lt=1)]
    tasks: tuple[str, ...] = ()
    retention: tuple[str, ...] = ()
    licence: str | None = None  # of the rows
    path: str | None = None  # a local mirror folder, read when source is "path"
    file: str | None = None  # the user's own training file, where the rows name it
    test_file: str | None = None
    max_rows: Positive | None = None
    content: str | None = None  # as in ModelSpec


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Strict):
    """How long, how fast and in what precision is trained: the same for every method."""

    lr: Rate | None  # null where nothing is trained
    max_steps: Positive | None
    epochs: Rate | None
    global_batch_size: Positive
    micro_batch_size: Positive
    max_length: Positive
    schedule: Literal["constant", "linear", "cosine"]
    warmup: Annotated[float, Field(ge=0, lt=1)]  # fraction of the steps
    weight_decay: NonNegative
    max_grad_norm: Rate
    gradient_checkpointing: bool
    precision: Literal["auto", "bf16", "fp32"]
    loss_on: Literal["completion", "all"]
    group_by_length: bool
    eval_every: Positive | None

    def __post_init__(self) -> None:
        if (self.max_steps is None) == (self.epochs is None):
            raise ValueError(
                f"train.max_steps={self.max_steps} and train.epochs={self.epochs}: give exactly one of the two, "
                "the other null"
            )
        if self.global_batch_size % self.micro_batch_size:
            raise ValueError(
                f"train.global_batch_size={self.global_batch_size} is not a multiple of "
                f"train.micro_batch_size={self.micro_batch_size}: the optimizer would see another batch than asked for"
            )


@dataclass(frozen=True, kw_only=True)
class EvalSpec(Strict):
    """Which lm-eval tasks are asked, on how many items and how."""

    tasks: tuple[str, ...]
    retention: tuple[str, ...]  # those of `tasks` that measure what must not be lost; the others are targets
    source: Source
    path: str | None
    limit: Positive | None  # first items of a target task's official split; null: all of them
    retention_limit: Positive | None
    heldout_limit: Positive | None  # rows per held-out set
    num_fewshot: Annotated[int, Field(ge=0)] | None  # null: the task's own number
    chat_template: bool
    batch_size: Positive
    test: Literal["always", "selected", "never"]  # selected: only what the last stage of a sweep has chosen


@dataclass(frozen=True, kw_only=True)
class SamplingSpec(Strict):
    """How text is generated, wherever the harness generates any. A temperature of 0 is greedy decoding."""

    temperature: NonNegative = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Rate = 1.0  # 1: none (Keskar et al. 2019, arXiv 1909.05858, section 4.1)
    max_new_tokens: Positive = 64


@dataclass(frozen=True, kw_only=True)
class TrackingSpec(Strict):
    """Where the numbers are mirrored; the records on disk stay the truth."""

    name: Literal["wandb", "none"]
    mode: Literal["offline", "online"] = "offline"
    project: str = "harness"
    entity: str | None = None


@dataclass(frozen=True, kw_only=True)
class Evaluation(Strict):
    """One look at a trained model: a task, its rows, the prompt format and the precision.

    `kind` is "lm_eval" for an official task and "heldout" for the answer loss on held-out rows.
    """

    kind: Literal["lm_eval", "heldout"]
    task: str  # the lm-eval task, or "<data name>/validation" and "<data name>/test"
    role: Role
    rows: str  # what identifies the rows: the data set's content, or the source of an official task
    limit: int | None
    num_fewshot: int | None
    chat_template: bool
    precision: str
    batch_size: int

    @property
    def eval_id(self) -> str:
        """Eight hex digits over everything but the role, which only says how a report reads the score."""
        return digest({k: v for k, v in dataclasses.asdict(self).items() if k != "role"})


@dataclass(frozen=True, kw_only=True)
class Experiment(Strict):
    """One run, completely described."""

    model: ModelSpec
    data: DataSpec
    method: Method
    train: TrainSpec
    eval: EvalSpec
    tracking: TrackingSpec
    seed: Annotated[int, Field(ge=0, lt=2**32)]
    lr_scale: Rate
    force: bool
    runs_dir: Annotated[str, Field(min_length=1)]
    reports_dir: Annotated[str, Field(min_length=1)]

    @property
    def recipe_id(self) -> str:
        """Eight hex digits, the same for every seed of one recipe."""
        return digest(recipe(self))

    @property
    def run_seed(self) -> int:
        """The seed that identifies the run: untrained weights have none, so that they are looked at once."""
        return self.seed if self.method.trains else 0

    @property
    def folder(self) -> Path:
        """Where the run's record, weights and evaluations lie."""
        return Path(self.runs_dir) / self.recipe_id / f"seed-{self.run_seed}"

    @property
    def weights_folder(self) -> Path:
        """Where what must be kept beside the base model lies."""
        return self.folder / "weights"


@dataclass(frozen=True, kw_only=True)
class Todo:
    """What is missing of a run.

    `weights_from` is the start of the attempt that made, or is about to make, the weights; None for untrained ones.
    """

    train: bool
    evaluations: tuple[Evaluation, ...]
    weights_from: str | None


def recipe(experiment: Experiment) -> dict[str, Any]:
    """What determines the trained weights, without the seed: JSON-safe, resolved values.

    Where the model and the data come from (a package, a hub, a folder) is not part of it, their content is.
    """
    model = {"content": experiment.model.content, "name": experiment.model.name}
    method = {"name": experiment.method.name, **dataclasses.asdict(experiment.method)}
    if not experiment.method.trains:
        return {"model": model, "method": {"name": experiment.method.name}, "data": None, "train": None}
    data = {
        "name": experiment.data.name,
        "content": experiment.data.content,
        "train": [_format(rows) for rows in experiment.data.train],
        "test": [_format(rows) for rows in experiment.data.test],  # rows that occur in a test are not trained on
        "validation_fraction": experiment.data.validation_fraction,
        "max_rows": experiment.data.max_rows,
    }
    train = {k: v for k, v in dataclasses.asdict(experiment.train).items() if k != "eval_every"}
    return {"model": model, "method": method, "data": data, "train": train}


def evaluations(experiment: Experiment) -> tuple[Evaluation, ...]:
    """What this experiment asks to be evaluated, in the order of a report's columns."""
    spec = experiment.eval
    roles: tuple[Role, ...] = ("validation", "test")
    parts = roles if spec.test == "always" and experiment.data.test else roles[:1]
    heldout = tuple(_heldout(experiment, role) for role in parts)
    tasks = spec.tasks if spec.test == "always" else ()
    return (*heldout, *(_task(experiment, task) for task in tasks))


def _heldout(experiment: Experiment, part: Role) -> Evaluation:
    return Evaluation(
        kind="heldout",
        task=f"{experiment.data.name}/{part}",
        role=part,
        rows=heldout_rows(experiment.data, experiment.train.max_length),
        limit=experiment.eval.heldout_limit,
        num_fewshot=None,
        chat_template=False,
        precision=experiment.train.precision,
        batch_size=experiment.eval.batch_size,
    )


def _task(experiment: Experiment, task: str) -> Evaluation:
    spec, retained = experiment.eval, task in experiment.eval.retention
    return Evaluation(
        kind="lm_eval",
        task=task,
        role="retention" if retained else "target",
        rows=spec.source,
        limit=spec.retention_limit if retained else spec.limit,
        num_fewshot=spec.num_fewshot,
        chat_template=spec.chat_template,
        precision=experiment.train.precision,
        batch_size=spec.batch_size,
    )


def heldout_rows(data: DataSpec, max_length: int) -> str:
    """Identity of the held-out rows: the content, the prompt formats, the split and the longest row."""
    formats = [[_format(rows) for rows in part] for part in (data.train, data.test)]
    return digest([data.content, formats, data.validation_fraction, max_length])


def canonical(value: Any) -> str:
    """JSON with sorted keys and no NaN: equal values give equal text."""
    return json.dumps(value, sort_keys=True, allow_nan=False, separators=(",", ":"))


def digest(value: Any) -> str:
    """The first eight hex digits of the SHA-256 of a JSON-safe value."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:8]


def _format(rows: RowsSpec) -> dict[str, Any]:
    """Rows without the path of a local file, whose content is hashed instead."""
    return {k: v for k, v in dataclasses.asdict(rows).items() if k != "file"}
