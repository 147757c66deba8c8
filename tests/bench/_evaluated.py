"""A run of SmolLM2-135M on science questions as the parts that score it need it: loaded, and trained where asked."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from typing import Any

import torch

from harness.config.compose import experiments
from harness.config.experiment import Todo
from harness.evaluate import heldout
from harness.run import inputs, worker
from harness.train.signals import Preemption

BATCH_TOKENS = 2048


def loaded(*words: str) -> Any:
    """The work of a run whose model is loaded and has its adapter, in bfloat16 and untrained."""
    settings = ("train=smoke", "eval=smoke", "train.precision=bf16", "tracking=none", f"runs_dir={tempfile.mkdtemp()}")
    [(_, experiment)] = experiments([*settings, *words])
    todo = Todo(train=True, evaluations=(), weights_from="untrained")
    work = worker._Work(inputs.resolve(experiment), todo, Preemption(), lambda event: None)
    work.load()
    return work


@torch.no_grad()
def loss(model: Any, rows: Sequence[Any], precision: str) -> float:
    """Nats per answer token of held-out rows."""
    model.eval()
    return heldout.metrics(heldout.score(model, rows, precision, BATCH_TOKENS, lambda _: None))["loss"].value
