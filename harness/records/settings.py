"""Schemas of the groups in `conf/`, section by section. Needs neither torch nor Hydra."""

import re
from dataclasses import asdict, dataclass, field, replace
from typing import Annotated, Any, Literal

from pydantic import Field

from harness.records.base import Strict
from harness.records.files import FileName

Source = Literal["hub", "package", "path"]
GENERAL_TEXT = ("aps/super_glue", "boolq", "validation")  # the data set whose passages are
Backend = Literal["shared_prefix", "hf", "vllm"]
Role = Literal["target", "retention", "validation", "test"]
Format = Literal["auto", "template", "prompt_completion", "alpaca", "messages", "sharegpt", "text"]
LossOn = Literal["completion", "assistant", "all"]
Weights = Literal["attached", "merged", "converted"]
EvalPrecision = Literal["fp32", "bf16"]
Sharding = Literal["none", "fsdp"]
Attention = Literal["auto", "eager", "sdpa", "flash_attention_2", "flash_attention_3"]
Positive = Annotated[int, Field(ge=1)]
NonNegative = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Share = Annotated[float, Field(gt=0, lt=1)]
Rate = Annotated[float, Field(gt=0, allow_inf_nan=False)]

_ESCAPE = re.compile(r"\\(?:[ntr]|u[0-9a-fA-F]{4}|x[0-9a-fA-F]{2})")


def unread_escape(text: str) -> str:
    r"""Return the first escape sequence of a text that nothing resolves, as \n from a shell; "" if there is none."""
    escape = _ESCAPE.search(text)
    return escape[0] if escape else ""


@dataclass(frozen=True, kw_only=True)
class ModelSpec(Strict):
    """A base model and the source of its files."""

    name: FileName
    display: str | None = None  # its name in tables and titles; null: `name`
    cite: tuple[str, ...] = ()  # keys of conf/references.bib
    source: Source
    hub_id: str | None = None
    revision: str | None = None  # a branch or tag is resolved to its commit before anything is identified by it
    package: str | None = None  # a key of conf/assets.yaml, read when source is "package"
    file: str | None = None  # the file inside the package
    path: str | None = None  # a local folder, read when source is "path"
    quantized: str | None = None  # format of the package's weights, which loading dequantizes, as in "Q4_1 GGUF"
    license: str | None = None
    trust_remote_code: bool = False
    # random: of the shapes in `architecture`, with a byte-level tokenizer; for memory and speed, never for scores
    weights: Literal["pretrained", "random"] = "pretrained"
    device_map: Literal["auto"] | None = None  # auto: evaluated over all GPUs together, a part of the layers on each
    content: str | None = None  # identity of the weights; filled by sources.resolve, never by hand
    # transformers' names of the sizes, and `of`: the Hub id that they are of. For plans and for random weights
    architecture: dict[str, Any] | None = field(default=None, hash=False)


@dataclass(frozen=True, kw_only=True)
class RowsSpec(Strict):
    """Some rows, and what makes a prompt and a completion of each: jinja templates, or a format that is known by name.

    `dataset` (with `subset` and `split`) names an official data set; `file` a local file or folder, which goes before.
    """

    prompt: str | None = None
    completion: str | None = None
    dataset: str | None = None
    subset: str | None = None
    split: str | None = None
    file: str | None = None
    revision: str | None = None  # of the Hub's data set: a branch, tag or commit; null: main
    format: Format = "auto"  # auto: the templates, where they are given, else what the first row's columns show
    share: Share | None = None  # of all training rows; for rows that are mixed in
    topic: str | None = None  # a column whose values the data check counts
    license: str | None = None  # of these rows, where it is not the data set's
    ignore: tuple[str, ...] = ()  # columns with a meaning (system, label, ...) that are left out on purpose


@dataclass(frozen=True, kw_only=True)
class DataSpec(Strict):
    """Training rows, held-out rows, and the tasks that the data are meant for.

    `on_...` decide what happens to such rows: drop and count them, keep them, or refuse to start any run.
    """

    name: FileName
    display: str | None = None  # its name in tables and titles; null: `name`
    cite: tuple[str, ...] = ()  # keys of conf/references.bib
    source: Source
    train: tuple[RowsSpec, ...]
    test: tuple[RowsSpec, ...] = ()
    validation_fraction: Share
    split_by: Literal["prompt", "row"] = "prompt"  # row: where all rows share one prompt, by prompt and answer together
    tasks: tuple[str, ...] = ()
    retention: tuple[str, ...] = ()
    license: str | None = None  # of the rows
    # text right before each answer, for methods that act from there on; null: the chat template's header
    invocation: str | None = None
    path: str | None = None  # a local mirror folder, read when source is "path"
    file: str | None = None  # the user's own training file, where the rows name it
    test_file: str | None = None
    max_rows: Positive | None = None
    resample: Literal["bootstrap"] | None = None  # as many training rows, drawn with replacement by the seed of `data`
    mix: tuple[RowsSpec, ...] = ()  # general data beside the training rows, each with its share of all of them
    template: str | None = None  # null: chats by the model's chat template, others plain; "model": all by it; or a file
    on_duplicate: Literal["drop", "keep", "error"] = "drop"  # a training row equal to one before
    on_near_duplicate: Literal["drop", "keep", "error"] = "keep"
    on_contradiction: Literal["drop", "keep", "error"] = "keep"  # one prompt with several answers
    on_test_overlap: Literal["drop", "error"] = "drop"  # a training row that `split_by` finds in a test set
    on_contamination: Literal["keep", "error"] = "keep"  # a training row that shares an n-gram with an evaluation item
    on_malformed: Literal["drop", "error"] = "error"
    on_empty: Literal["drop", "error"] = "error"
    content: str | None = None  # identity of the rows; filled by sources.resolve, never by hand

    def __post_init__(self) -> None:
        if any(rows.share is None for rows in self.mix):
            raise ValueError("data.mix: each entry needs its share of the training rows, as in share: 0.1")
        if any(rows.share is not None for rows in (*self.train, *self.test)):
            raise ValueError("data.train, data.test: share belongs to entries of data.mix; these rows are the rest")
        if sum(rows.share or 0 for rows in self.mix) >= 1:
            raise ValueError("data.mix: the shares add up to 1 or more; they are parts of all training rows")


@dataclass(frozen=True, kw_only=True)
class OomSpec(Strict):
    """Fallbacks with which training is retried when it runs out of memory."""

    smaller_micro_batches: bool = False
    gradient_checkpointing: bool = False
    max_lengths: tuple[Positive, ...] = ()  # tokens of the longest training row: fewer rows, and so other weights
    quantized_base: bool = False  # also run the same with a base in 4 bits, as a run of its own


@dataclass(frozen=True)
class Fallback:
    """Batching of an optimizer step: the settings that may change when memory runs out."""

    micro_batch_size: int
    gradient_checkpointing: bool
    max_length: int | None = None  # tokens of the longest training row, where longer ones are left out for it

    def applied(self, spec: "TrainSpec") -> "TrainSpec":
        """Return the requested training settings with this batching."""
        changed = {name: value for name, value in asdict(self).items() if value is not None}
        return replace(spec, **changed)

    def __str__(self) -> str:
        checkpointed = ", gradient checkpointing" if self.gradient_checkpointing else ""
        shorter = f", rows of at most {self.max_length:,} tokens" if self.max_length else ""
        return f"micro batches of {self.micro_batch_size}{checkpointed}{shorter}"


@dataclass(frozen=True, kw_only=True)
class KernelSpec(Strict):
    """Kernels of the training step. They change speed and memory; results change by rounding only.

    Values other than these defaults are part of the recipe. Evaluations are computed with the defaults. None was
    measured on a GPU yet: `python -m tests.bench gpu` measures them.
    """

    attention: Attention = "auto"  # auto: what transformers takes for the model, SDPA where it has it
    # norms, rotary embeddings and gated MLPs by the package liger-kernel; auto: on a GPU, where it is installed and has
    # kernels for the model. auto and false are one recipe, and a record says where auto was on
    liger: Literal["auto"] | bool = "auto"
    compile: bool = False  # each layer by torch.compile
    tf32: bool = False  # float32 matrix products on a GPU round their factors to 10 bits


@dataclass(frozen=True, kw_only=True)
class TrainSpec(Strict):
    """Length, learning rates, batches and precision of training: the same for every method."""

    lr: Rate | None  # null where nothing is trained
    max_steps: Positive | None
    epochs: Rate | None
    global_batch_size: Positive
    micro_batch_size: Positive
    max_length: Positive
    lr_scheduler_type: Literal["constant", "constant_with_warmup", "linear", "cosine"]  # transformers' names
    warmup_steps: Annotated[float, Field(ge=0, allow_inf_nan=False)]  # below 1: a fraction of all steps
    weight_decay: NonNegative
    max_grad_norm: Rate | None  # null: gradients are not clipped
    gradient_checkpointing: bool
    precision: Literal["auto", "bf16", "fp32"]
    loss_on: LossOn  # the last answer; every turn of the assistant; everything
    group_by_length: bool
    eval_every: Positive | None
    patience: Positive | None = None  # early stopping: validations without a new lowest loss; its weights are kept
    divergence_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)] | None = 3.0  # times the first loss
    divergence_steps: Positive = 10  # steps in a row above it that end a run as diverged
    oom: OomSpec = field(default_factory=OomSpec)
    # between two checkpoints; another is written whenever the run is told to end; null: only that one
    checkpoint_seconds: Annotated[float, Field(ge=0, allow_inf_nan=False)] | None = 600.0
    packing: bool = False  # several examples in a row of max_length, none of which sees another
    kernels: KernelSpec = field(default_factory=KernelSpec)
    # on a GPU results repeat to the bit, and steps take longer (not run on one yet); on a CPU they repeat anyway
    deterministic: bool = False
    # processes that prepare batches ahead; 0: the training process itself
    dataloader_num_workers: Annotated[int, Field(ge=0)] = 0

    def __post_init__(self) -> None:
        self._check_warmup()
        if self.patience is not None and self.eval_every is None:
            raise ValueError(
                f"train.patience={self.patience} needs validations to be patient about: set train.eval_every"
            )
        if (self.max_steps is None) == (self.epochs is None):
            given = ["null" if value is None else value for value in (self.max_steps, self.epochs)]
            raise ValueError(
                f"train.max_steps={given[0]} and train.epochs={given[1]}: give exactly one of the two, the other null"
            )
        if self.global_batch_size % self.micro_batch_size:
            rows = next(n for n in range(self.micro_batch_size, 0, -1) if self.global_batch_size % n == 0)
            raise ValueError(
                f"train.global_batch_size={self.global_batch_size} is not a multiple of "
                f"train.micro_batch_size={self.micro_batch_size}: the optimizer would see another batch than asked "
                f"for; choose train.micro_batch_size={rows}"
            )

    def _check_warmup(self) -> None:
        steps = self.warmup_steps
        if steps >= 1 and steps != int(steps):
            raise ValueError(f"train.warmup_steps={steps}: give a whole number of steps, or a fraction of them below 1")
        if self.max_steps is not None and steps >= self.max_steps:
            raise ValueError(
                f"train.warmup_steps={steps:g} of train.max_steps={self.max_steps}: the learning rate would "
                "never reach train.lr; give fewer, or a fraction below 1"
            )
        if self.lr_scheduler_type == "constant" and steps:
            raise ValueError(
                f"train.lr_scheduler_type=constant with train.warmup_steps={steps:g}: a constant rate has no "
                "warmup; use train.lr_scheduler_type=constant_with_warmup, or train.warmup_steps=0"
            )


@dataclass(frozen=True, kw_only=True)
class LaunchSpec(Strict):
    """Processes and nodes that train a run. Results do not depend on them beyond rounding.

    Tried with several processes on CPUs, not yet on GPUs.
    """

    num_processes: Positive = 1  # over all nodes; each has a GPU or its share of the cores
    sharding: Sharding = "none"  # none: each process holds the whole model; fsdp: a shard of it
    num_nodes: Positive = 1  # more than one only in a SLURM job

    def __post_init__(self) -> None:
        if self.num_processes % self.num_nodes:
            raise ValueError(
                f"launch.num_processes={self.num_processes} is not a multiple of launch.num_nodes={self.num_nodes}: it "
                f"counts those of all nodes, as many on each; choose {self.num_nodes}, {2 * self.num_nodes}, ..."
            )

    @property
    def processes_per_node(self) -> int:
        """Return the number of processes that share a node's GPUs or cores."""
        return self.num_processes // self.num_nodes


@dataclass(frozen=True, kw_only=True)
class SamplingSpec(Strict):
    """Sampling of text, wherever the harness generates any. A temperature of 0 is greedy decoding."""

    temperature: NonNegative = 0.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    repetition_penalty: Rate = 1.0  # 1: none (Keskar et al. 2019, arXiv 1909.05858, section 4.1)
    max_new_tokens: Positive = 64


@dataclass(frozen=True, kw_only=True)
class EvalSpec(Strict):
    """Evaluations of a run: lm-eval tasks, numbers of items, and how the items are scored."""

    tasks: tuple[str, ...]
    retention: tuple[str, ...]  # members of `tasks` that measure abilities to retain; the others are targets
    source: Source
    path: str | None
    limit: Positive | None  # first items of a target task's official split; null: all of them
    retention_limit: Positive | None
    task_limits: dict[str, Positive] = field(default_factory=dict, hash=False)  # of single tasks, where they are asked
    heldout_limit: Positive | None  # rows per held-out set
    # null: the task's own number. A number also replaces a task's own 0, which lm-eval's command would keep
    num_fewshot: Annotated[int, Field(ge=0)] | None
    chat_template: bool
    batch_size: Positive  # rows per batch: of generation, and of the backend hf
    test: Literal["always", "selected", "never"]  # selected: only what the last stage of a sweep has chosen
    # shared_prefix falls back to rows of their own where a model cannot share; vllm was not run on a GPU yet
    backend: Backend = "shared_prefix"
    batch_tokens: Positive = 2048  # tokens per batch of likelihoods: of shared_prefix and the held-out losses
    include_path: str | None = None  # a folder of the user's own task YAML files
    unsafe_code: bool = False  # whether tasks may run the code that a model writes
    general_text_passages: Positive | None = None  # passages of general text whose loss is taken; null: none
    # held-out rows that are answered in text, of the test set if there is one; null: none
    generation_rows: Positive | None = None
    sampling: SamplingSpec = SamplingSpec()  # how these answers are sampled
    include_content: str | None = None  # identifies the files of include_path; filled by sources.resolve, never by hand
    include_names: tuple[str, ...] = ()  # the tasks and groups that those files define; as above
    rows_content: dict[str, str] = field(default_factory=dict, hash=False)  # a mirror's, by task; as above
    # merged: the update is folded into the base, dequantized first where it is quantized: a model and a row of its own
    # converted: the update is cut to the LoRA of a given rank that is nearest to it, on the same base: another row
    weights: Weights = "attached"
    converted_r: Positive = 16  # rank of eval.weights=converted
    # of every loss, likelihood and generated text. bf16 is faster, and rounding loses part of a small update
    precision: EvalPrecision = "fp32"


@dataclass(frozen=True, kw_only=True)
class InferenceSpec(Strict):
    """Measurement of the cost of using a result. No trained weight depends on it."""

    enabled: bool = False
    batch_sizes: Annotated[tuple[Positive, ...], Field(min_length=1)] = (1, 8)
    prompt_tokens: Positive = 64  # of each row
    new_tokens: Positive = 32
    num_repeats: Positive = 3  # of each measurement; the median counts
    num_outputs: Positive = 8  # held-out prompts whose greedy answers are compared


@dataclass(frozen=True, kw_only=True)
class PlanSpec(Strict):
    """Memory prediction: whether cells predicted not to fit are left out, and the device that it is made for."""

    enforce: bool = True
    device: str | None = None  # for harness.plan: a name or an amount; null: this machine's GPU, if it has one


@dataclass(frozen=True, kw_only=True)
class TrackingSpec(Strict):
    """Tracker that mirrors the numbers; the records on disk stay the truth.

    `mode`, `project` and `group` are for wandb and trackio, `entity` is for wandb alone.
    """

    name: Literal["wandb", "tensorboard", "trackio", "none"]
    mode: Literal["offline", "online"] = "offline"
    project: str = "harness"
    entity: str | None = None
    group: str | None = None  # null: the sweep's name, or what it compares
