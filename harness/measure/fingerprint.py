"""Fingerprint of the trained weights: names, shapes, dtypes and counts, read from the model."""

from __future__ import annotations

import math
from typing import Any

from harness.records.record import Fingerprint


def fingerprint(model: Any, expected: int, mergeable: bool) -> Fingerprint:
    """Return the fingerprint of a model to which a method is attached; nothing has been saved yet.

    Args:
        model: the model.
        expected: the trained parameters that the method's formula gives.
        mergeable: whether the update can be folded into the base.
    """
    trained = {n: p for n, p in model.named_parameters() if p.requires_grad}
    return Fingerprint(
        trained={n: (tuple(p.shape), str(p.dtype).removeprefix("torch.")) for n, p in trained.items()},
        trainable_parameters=sum(p.numel() for p in trained.values()),
        expected_trainable_parameters=expected,
        total_parameters=sum(map(_num_elements, model.parameters())),
        saved_bytes=None,
        mergeable=mergeable,
    )


def _num_elements(parameter: Any) -> int:
    """Return the number of elements; for a 4-bit tensor those that are packed into it."""
    state = getattr(parameter, "quant_state", None)
    return math.prod(state.shape) if state is not None else parameter.numel()
