"""Measurements of a run: the parts of its record that hold numbers. Needs the standard library and pydantic only.

Units are in the names. An unmeasured value is None, never a sentinel.
"""

from dataclasses import dataclass, field
from typing import Any

from harness.records.base import Strict
from harness.records.files import FileName


@dataclass(frozen=True, kw_only=True)
class Conditions(Strict):
    """Other load and limits during a phase; None where not observable. Other load makes a timing doubtful."""

    cpu_cores: int | None = None  # of the machine
    other_cpu_cores: float | None = None  # cores among them that other processes kept busy, on average
    throttled_seconds: float | None = None  # lost to the control group's limit, summed over the cores
    other_device_processes: int | None = None  # with memory on the GPU at the phase's end
    clock_share: float | None = None  # the GPU's lowest clock between steps, else at the end, over the highest it has
    temperature_celsius: int | None = None
    throttle_reasons: tuple[str, ...] | None = None  # why the GPU's clock is below its highest; () if it is not
    # seconds that each limit held the GPU's clock down (NVML's counters): power, thermal, sync_boost, ...
    limited_seconds: dict[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class Phase(Strict):
    """One phase of a run.

    On the CPU `peak_memory_bytes` is the peak resident set above what the process had before the phase, and
    `resident_bytes` the resident set it had at that moment. On CUDA it is the peak allocated, in absolute terms, and
    `peak_reserved_bytes` what the allocator held.
    """

    seconds: float
    peak_memory_bytes: int | None
    peak_reserved_bytes: int | None
    resident_bytes: int | None
    device_bytes: int | None = None  # of the whole GPU, at the end, above what was in use before the run (NVML)
    context_bytes: int | None = None  # the part outside torch's allocator: CUDA's context and the libraries
    paged_bytes: int | None = None  # managed memory of paged optimizers, which torch's counters do not see
    allocation_retries: int | None = None  # times that the CUDA allocator freed its cache and retried
    energy_joules: float | None = None  # of whole GPUs that held tensors (NVML); not measured on a CPU
    conditions: Conditions | None = None


@dataclass(frozen=True, kw_only=True)
class Fingerprint(Strict):
    """Trained tensors as name -> [shape, dtype], and parameter counts."""

    trained: dict[str, tuple[tuple[int, ...], str]]
    trainable_parameters: int
    expected_trainable_parameters: int
    total_parameters: int
    saved_bytes: int | None  # bytes on disk of what must be kept beside the base model
    mergeable: bool | None = None  # whether it can be folded into the base's weights, so that its use costs nothing


@dataclass(frozen=True, kw_only=True)
class StepProfile(Strict):
    """Profile of one optimizer step, operation by operation: the last warm-up step, which no rate counts.

    `live_bytes` splits `live_peak_bytes`, the highest sum of the storages of all tensors alive: weights, gradients,
    optimizer (its states), activations (from the forward pass), rest. None and empty where memory was not followed.
    """

    step: int
    micro_batches: tuple[tuple[int, int], ...]  # (rows, tokens with padding) of each
    flops: int
    live_peak_bytes: int | None
    live_bytes: dict[str, int]


@dataclass(frozen=True, kw_only=True)
class DevicePeak(Strict):
    """The most floating point operations per second that the device was seen to do, and how."""

    flops_per_second: float
    dtype: str
    source: str
    doubt: str = ""  # why it may be too low, so that no share of it is taken


@dataclass(frozen=True, kw_only=True)
class Training(Strict):
    """One entry per optimizer step in every tuple; `validation` holds (step, nats per answer token)."""

    step_seconds: tuple[float, ...]
    real_tokens: tuple[int, ...]
    padded_tokens: tuple[int, ...]  # all positions computed, padding included
    trained_tokens: tuple[int, ...]  # with a label
    losses: tuple[float | None, ...]
    gradient_norms: tuple[float | None, ...]
    learning_rates: tuple[float, ...]
    validation: tuple[tuple[int, float], ...]
    warmup_steps_dropped: int  # first steps that `tokens_per_second` leaves out
    tokens_per_second: float | None  # real tokens, after the dropped steps; None if no step is left
    train_seconds: float  # optimizer steps only: no loading, validation or saving
    sequences: tuple[int, ...] | None = None  # rows
    profile: StepProfile | None = None
    flops_per_second: float | None = None  # the profile's, scaled by the positions computed in the steps that count
    device_peak: DevicePeak | None = None
    mfu: float | None = None  # flops_per_second over that peak (MFU)
    overfitted: bool | None = None  # the validation loss rose while the training loss fell; None without a curve
    stopped_early_at: int | None = None  # step at which the validation loss had not fallen for long enough
    kept_step: int | None = None  # step whose weights are the result; None: the last one's


@dataclass(frozen=True, kw_only=True)
class Speed(Strict):
    """Generation of a number of rows at once, each with as many new tokens."""

    batch_size: int
    prompt_tokens: int  # of each row
    new_tokens: int  # of each row
    time_to_first_token_seconds: float  # median
    tokens_per_second: float  # new tokens of all rows, over the time that they took, the first included


@dataclass(frozen=True, kw_only=True)
class Served(Strict):
    """A model as it is used: the weights it holds, how fast it writes, and whether what it writes can be read."""

    weight_bytes: int
    peak_memory_bytes: int | None  # of generating; as in `Phase`
    speeds: tuple[Speed, ...]
    num_outputs: int
    empty_outputs: int
    looping_outputs: int  # a unit that repeats four times and more


@dataclass(frozen=True, kw_only=True)
class FurtherAdapters(Strict):
    """Cost of keeping more adapters beside one base, and of switching between them."""

    num_adapters: int
    bytes_per_adapter: int
    switch_seconds: float  # median


@dataclass(frozen=True, kw_only=True)
class InferenceRecord(Strict):
    """Cost of using a run's result. `settings` are `specs.InferenceSpec` as a dictionary."""

    schema: int
    recipe_id: FileName
    seed: int
    weights_from: str | None  # start of the attempt whose weights were used; None for untrained ones
    settings: dict[str, Any]
    precision: str
    served: dict[str, Served]  # plain (the base), attached and merged, where they exist
    unmerged_reason: str  # why there is no merged model; "" where there is
    equal_outputs: int | None  # of `num_outputs`, greedy texts that attached and merged have in common
    further: FurtherAdapters | None
    alone_reason: str  # why no other adapter was put beside it; "" where one was
    provenance: dict[str, Any]
    unmeasured: dict[str, str] = field(default_factory=dict)  # plain, attached or merged: why it was not measured


@dataclass(frozen=True, kw_only=True)
class WeightUpdate(Strict):
    """The shape of one weight's change D = W_tuned - W; what only a matrix has is None for a vector.

    `effective_rank`: the exponential of the entropy of D's singular values, normalized to sum 1 (Roy and Vetterli
    2007, EUSIPCO). `stable_rank`: the squared Frobenius norm over the squared spectral norm. `alignment_left` and
    `alignment_right`: how much of the span of D's top singular vectors lies in that of W's, 0 to 1 (Hu et al. 2021,
    arXiv 2106.09685, section 7.3); `num_aligned` vectors of each, and what chance gives is that number over the
    side's length. `intruder_dimensions`: how many of W_tuned's top left singular vectors resemble none of W's
    (Shuttleworth et al. 2024, arXiv 2410.21228).
    """

    shape: tuple[int, ...]
    norm: float  # Frobenius
    relative_norm: float | None  # over that of W; None where W is zero
    effective_rank: float | None
    stable_rank: float | None
    alignment_left: float | None
    alignment_right: float | None
    num_aligned: int | None
    intruder_dimensions: int | None


@dataclass(frozen=True, kw_only=True)
class WeightLoss(Strict):
    """The change of one weight, and how much of it a conversion lacks.

    `norm`: Frobenius norm of the change. `lost`: the norm of what the converted adapter lacks over `norm`, 0 to 1; 1
    for a weight of no linear layer, which LoRA does not hold.
    """

    norm: float
    lost: float


@dataclass(frozen=True, kw_only=True)
class Conversion(Strict):
    """An update as LoRA of one rank. `lost` and `lost_elsewhere` are shares of the norm of the whole update.

    `lost_elsewhere` is the part of it that no linear layer holds. `weights` has every weight that changed, by its name
    in the base model.
    """

    lost: float
    lost_elsewhere: float
    weights: dict[str, WeightLoss]


@dataclass(frozen=True, kw_only=True)
class ConvertedRecord(Strict):
    """The conversions of a run's update into LoRA that were evaluated, by their rank."""

    schema: int
    recipe_id: FileName
    seed: int
    weights_from: str | None  # start of the attempt whose weights were converted
    by_rank: dict[str, Conversion]


@dataclass(frozen=True, kw_only=True)
class UpdateRecord(Strict):
    """The shape of a run's update: every weight that changed, by its name in the base model."""

    schema: int
    recipe_id: FileName
    seed: int
    weights_from: str | None  # start of the attempt whose weights were looked at
    reason: str  # why there is no weight change to look at; "" where there is
    num_top: int  # singular vectors that alignment and intruder dimensions look at, at most
    epsilon: float  # an intruder's cosine similarity with every singular vector of W is below this
    weights: dict[str, WeightUpdate]
