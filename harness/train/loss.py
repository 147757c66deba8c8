"""The output head, computed only where its logits are read.

Most of a small model's time goes into logits over the vocabulary, and most positions (prompts, padding) carry no label.
The model's own forward pass runs unchanged around the head, so that whatever it does to its logits (scaling, soft
capping) is kept, and so are virtual tokens that a method puts in front.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import torch


@contextlib.contextmanager
def only_at(model: Any, wanted_BT: torch.Tensor) -> Iterator[None]:  # shape suffixes: batch, tokens, features
    """Let forward passes return logits of shape (1, N, vocabulary) within this context.

    Args:
        model: a causal language model, or an adapter around one, or DistributedDataParallel around either.
        wanted_BT: boolean; the N positions, row by row, whose logits are wanted. Virtual tokens are not counted.
    """
    length = wanted_BT.shape[1]

    def select(_: Any, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        hidden_BTD = inputs[0][:, -length:]
        return (hidden_BTD[wanted_BT.to(hidden_BTD.device)][None],)  # elsewhere if the model is spread over devices

    inner = model.module if isinstance(model, torch.nn.parallel.DistributedDataParallel) else model
    hook = inner.get_output_embeddings().register_forward_pre_hook(select)
    try:
        yield
    finally:
        hook.remove()


def label_nats(model: Any, inputs: dict[str, torch.Tensor], labels_BT: torch.Tensor) -> torch.Tensor:
    """Return the nats summed over the labeled positions (those that are not -100) of a batch; differentiable."""
    targets_BT = torch.nn.functional.pad(labels_BT[:, 1:], (0, 1), value=-100)  # predicted one place before
    labeled_BT = targets_BT != -100
    with only_at(model, labeled_BT):
        logits_NV = model(**inputs).logits[0]
    return torch.nn.functional.cross_entropy(logits_NV.float(), targets_BT[labeled_BT], reduction="sum")
