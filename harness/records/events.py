"""Events that the process of a run, or of another long piece of work, sends while it works.

They are shown on the progress board, mirrored to a tracker, and collected into the record of the attempt.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from harness.records.record import DataCounts, Fingerprint, Phase, Training


@dataclass(frozen=True)
class PhaseStarted:
    """Start of a phase of the work. Phases of a run are in `record.PHASES`."""

    name: str


@dataclass(frozen=True)
class TaskStarted:
    """Start of one task within a phase."""

    name: str


@dataclass(frozen=True)
class Progress:
    """Units of the phase that are done; `total` is None if their number is unknown."""

    done: int
    total: int | None


@dataclass(frozen=True, kw_only=True)
class StepLogged(Progress):
    """An optimizer step, `done` of `total`. `tokens_per_second` is None while it is unknown."""

    loss: float
    gradient_norm: float
    learning_rate: float
    tokens_per_second: float | None


@dataclass(frozen=True)
class Validated:
    """Validation loss after a step, in nats per answer token."""

    step: int
    loss: float


@dataclass(frozen=True)
class Message:
    """A line for people."""

    text: str


@dataclass(frozen=True)
class RunSized:
    """Bytes that a planned run will write; `position` is its place among the runs that are checked."""

    position: int
    weights: int
    checkpoint: int


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Facts of an attempt, named as in its record. None: this event does not hold the fact."""

    phases: dict[str, Phase] | None = None
    peak_memory_bytes: int | None = None
    required_memory_bytes: int | None = None
    summed_peak_memory_bytes: int | None = None
    data: DataCounts | None = None
    fingerprint: Fingerprint | None = None
    training: Training | None = None
    weights_from: str | None = None  # set once the weights are stored
    checkpoint_step: int | None = None  # of the newest checkpoint
    resumed_at_step: int | None = None
    micro_batch_size: int | None = None
    gradient_checkpointing: bool | None = None
    max_length: int | None = None
    device: dict[str, Any] | None = None  # for the provenance
    liger: bool | None = None
    optimizer: Any = None  # description of the optimizer, for the provenance

    def updated(self, later: Measured) -> Measured:
        """Return these facts, replaced by those that the later event holds."""
        values = {field.name: getattr(later, field.name) for field in dataclasses.fields(later)}
        return dataclasses.replace(self, **{name: value for name, value in values.items() if value is not None})


Event = PhaseStarted | TaskStarted | Progress | Validated | Message | RunSized | Measured
Emit = Callable[[Event], None]
