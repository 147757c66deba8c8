"""Shortcuts of a training step in bfloat16 on a CPU. They change numbers by rounding at most.

Measured with `python -m tests.bench training`; off on a GPU, where none of it was measured.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterator
from typing import Any

import torch
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_LONGEST = 512  # tokens per side; beyond, torch's kernel is as fast, because it skips what a causal mask hides
_SCORES_AT_ONCE = 2**20  # of several rows, so that they stay in the processor's cache


@contextlib.contextmanager
def bfloat16_on_cpu(model: Any, leaves_inputs: bool) -> Iterator[None]:
    """Apply the shortcuts to forward passes under autocast and to their backward passes.

    `leaves_inputs` is the method's.
    """
    with short_attention(), inputs_as_they_are(model) if leaves_inputs else contextlib.nullcontext():
        yield


@contextlib.contextmanager
def short_attention() -> Iterator[None]:
    """Compute attention over few tokens as matrix products, for which torch's kernel takes twice as long."""
    ALL_ATTENTION_FUNCTIONS["sdpa"] = _Short()
    try:
        yield
    finally:
        del ALL_ATTENTION_FUNCTIONS["sdpa"]


@contextlib.contextmanager
def inputs_as_they_are(model: Any) -> Iterator[None]:
    """Let adapters take their inputs without casts.

    PEFT casts an adapter's input to the adapter's float32, and autocast casts it back.
    """
    adapted = [module for module in model.modules() if getattr(module, "cast_input_dtype_enabled", False)]
    for module in adapted:
        module.cast_input_dtype_enabled = False
    try:
        yield
    finally:
        for module in adapted:
            module.cast_input_dtype_enabled = True


class _Short:
    """Replacement of transformers' "sdpa", to which it passes on what it does not support."""

    def __init__(self) -> None:
        self._mask: torch.Tensor | None = None  # the layers of a pass share it
        self._bias = torch.empty(0)

    def __call__(
        self,
        module: torch.nn.Module,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        attention_mask: torch.Tensor | None,
        dropout: float = 0.0,
        scaling: float | None = None,
        is_causal: bool | None = None,
        **more: Any,
    ) -> tuple[torch.Tensor, None]:
        """Return (rows, tokens, heads, head size), from (rows, heads, tokens, head size) of query, key and value."""
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        special = dropout or any(more.get(name) is not None for name in ("position_bias", "cache", "softcap"))
        if special or not _fits(query, key, attention_mask, causal):
            options = {"dropout": dropout, "scaling": scaling, "is_causal": is_causal, **more}
            result: tuple[torch.Tensor, None] = sdpa_attention_forward(
                module, query, key, value, attention_mask, **options
            )
            return result
        query, key, value = (tensor.to(torch.bfloat16) for tensor in (query, key, value))
        bias = self._bias_of(attention_mask, query, key)
        scale = query.shape[-1] ** -0.5 if scaling is None else scaling
        return _Attention.apply(query, key, value, bias, scale).transpose(1, 2).contiguous(), None

    def _bias_of(self, mask: torch.Tensor | None, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
        """Return the bias of the scores: (rows or 1, 1, heads per key head times queries, keys)."""
        heads = query.shape[1] // key.shape[1]
        shape = (len(query) if mask is not None else 1, 1, heads * query.shape[2], key.shape[2])
        if self._mask is not mask or self._bias.shape != shape:
            seen = mask if mask is not None else torch.ones(shape[-1], shape[-1], dtype=torch.bool).tril()[None, None]
            hidden = torch.zeros(seen.shape, dtype=torch.bfloat16).masked_fill_(~seen, torch.finfo(torch.bfloat16).min)
            self._mask, self._bias = mask, hidden.repeat(1, 1, heads, 1)
        return self._bias


def _fits(query: torch.Tensor, key: torch.Tensor, mask: torch.Tensor | None, causal: bool) -> bool:
    """Return whether attention is short, in bfloat16, and masked in one of the two supported ways."""
    tokens, seen = query.shape[2], key.shape[2]
    is_causal = (causal and tokens == seen) if mask is None else (mask.dtype == torch.bool and mask.shape[1] == 1)
    half = torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") is torch.bfloat16
    return max(tokens, seen) <= _LONGEST and is_causal and half


class _Attention(torch.autograd.Function):  # type: ignore[misc]
    """softmax(scale query key' + bias) value in bfloat16; the backward pass computes the probabilities again.

    Heads that share a key head are one product with it.
    """

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, bias: torch.Tensor, scale: float
    ) -> torch.Tensor:
        """Return attention of the shape of `query`: (rows, heads, tokens, head size)."""
        ctx.save_for_backward(query, key, value, bias)
        ctx.scale = scale
        result = torch.empty(query.shape, dtype=query.dtype)
        with torch.autocast("cpu", enabled=False):
            for rows in _parts(query, key):
                probabilities = _probabilities(query[rows], key[rows], bias[rows] if len(bias) > 1 else bias, scale)
                result[rows] = torch.bmm(probabilities, _flat(value[rows])).view_as(result[rows])
        return result

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        """Return the gradients of query, key and value."""
        query, key, value, bias = ctx.saved_tensors
        gradients = [torch.empty(tensor.shape, dtype=tensor.dtype) for tensor in (query, key, value)]
        with torch.autocast("cpu", enabled=False):
            for rows in _parts(query, key):
                probabilities = _probabilities(query[rows], key[rows], bias[rows] if len(bias) > 1 else bias, ctx.scale)
                own = gradient[rows].reshape(len(probabilities), -1, gradient.shape[-1])
                wanted = torch.bmm(own, _flat(value[rows]).transpose(1, 2))
                scores = torch._softmax_backward_data(wanted, probabilities, -1, probabilities.dtype)
                parts = (
                    torch.bmm(scores, _flat(key[rows])).mul_(ctx.scale),
                    torch.bmm(scores.transpose(1, 2), _folded(query[rows], key)).mul_(ctx.scale),
                    torch.bmm(probabilities.transpose(1, 2), own),
                )
                for whole, part in zip(gradients, parts, strict=True):
                    whole[rows] = part.view_as(whole[rows])
        return (*gradients, None, None)


def _parts(query: torch.Tensor, key: torch.Tensor) -> Iterator[slice]:
    """Return slices of rows."""
    size = max(1, _SCORES_AT_ONCE // math.prod((*query.shape[1:3], key.shape[2])))
    return (slice(start, min(start + size, len(query))) for start in range(0, len(query), size))


def _probabilities(query: torch.Tensor, key: torch.Tensor, bias: torch.Tensor, scale: float) -> torch.Tensor:
    """Return probabilities: (rows times key heads, heads per key head times queries, keys)."""
    folded, flat = _folded(query, key), _flat(key)
    hidden = bias.expand(len(query), key.shape[1], *bias.shape[2:]).reshape(len(flat), *bias.shape[2:])
    return torch.softmax(torch.baddbmm(hidden, folded, flat.transpose(1, 2), alpha=scale), -1)


def _folded(query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
    """Return queries by key head: (rows times key heads, heads per key head times queries, head size)."""
    return query.reshape(len(query) * key.shape[1], -1, query.shape[-1])


def _flat(tensor: torch.Tensor) -> torch.Tensor:
    """Return keys or values by key head: (rows times key heads, keys, head size)."""
    return tensor.reshape(-1, *tensor.shape[2:])
