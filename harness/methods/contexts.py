"""Contexts that a method may refuse: one argument of `Method.unsupported` for each question that a run asks it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from harness.records.settings import TrainSpec


@dataclass(frozen=True)
class OnDevice:
    """Run on this kind of device: "cpu" or "cuda"."""

    device: str


@dataclass(frozen=True)
class OnModel:
    """Attach to this base model, which may have no weights (on the meta device)."""

    model: PreTrainedModel


@dataclass(frozen=True)
class OnRows:
    """Train on these rows (`input_ids` and `completion_mask`, of one length), read with this tokenizer."""

    rows: Sequence[Mapping[str, list[int]]]
    tokenizer: Any


@dataclass(frozen=True)
class TrainedWith:
    """Train with these settings."""

    spec: TrainSpec


@dataclass(frozen=True)
class InProcesses:
    """Train in this many processes, more than one, which share their gradients."""

    number: int


@dataclass(frozen=True)
class Sharded:
    """Train with the model's weights sharded among the processes."""


@dataclass(frozen=True)
class Packed:
    """Train on rows that hold several examples, of which each must see only its own tokens."""


@dataclass(frozen=True)
class Served:
    """Serve the result, not merged, from a server of LoRA adapters that holds the base as published."""


@dataclass(frozen=True)
class Planned:
    """Predict memory and operations completely. The reason names what a prediction leaves out."""


Context = OnDevice | OnModel | OnRows | TrainedWith | InProcesses | Sharded | Packed | Served | Planned
