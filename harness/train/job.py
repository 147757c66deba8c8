"""Inputs of the training loop."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch

from harness.methods.base import Method
from harness.records.events import Emit
from harness.records.settings import Sharding, TrainSpec
from harness.train.batches import Row
from harness.train.resume import Checkpoints


@dataclass(frozen=True, kw_only=True)
class Job:
    """Inputs of the training loop.

    Attributes:
        model: what `method.attach` returned.
        validate: returns nats per answer token on the validation set. It is called every `spec.eval_every` steps,
            outside the clock.
        emit: receives progress.
        scratch: a folder that the trainer requires.
        profile: whether one step is followed operation by operation.
        checkpoints: where training resumes from; None where it begins anew and is not interrupted.
        sharding: how the model, which lies on the CPU, is sharded among the ranks. Afterwards rank 0 has it whole on
            its CPU, to be saved; it cannot be run any more.
        cuda: whether steps are computed in the way that suits a GPU, whatever device the tensors are on.
        sample: takes a sample of the device while it works.
        aside: returns a context whose memory does not count as training's.
    """

    model: Any
    method: Method
    rows: Sequence[Row]
    spec: TrainSpec
    seed: int
    tokenizer: Any
    validate: Callable[[], float]
    emit: Emit
    scratch: str
    profile: bool = True
    checkpoints: Checkpoints | None = None
    sharding: Sharding = "none"
    cuda: bool = field(default_factory=torch.cuda.is_available)
    sample: Callable[[], None] = lambda: None
    aside: Callable[[], AbstractContextManager[None]] = nullcontext
