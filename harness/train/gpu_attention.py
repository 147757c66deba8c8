"""Attention in float32 on a GPU, without a score for every pair of tokens in memory."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from transformers.integrations import sdpa_attention


@contextlib.contextmanager
def keys_for_every_head() -> Iterator[None]:
    """Give torch's attention as many key heads as query heads, by repeating keys and values.

    In float32 the memory-efficient kernel is the only fused one, and it takes no fewer key heads than query heads
    (sdp_utils.cpp, `use_mem_efficient_attention`). transformers passes grouped heads on where there is no mask. torch
    then computes attention as matrix products, whose scores take rows x heads x tokens x tokens x 4 bytes in each
    layer. Read in the sources of torch 2.13, not measured on a GPU.
    """
    usual = sdpa_attention.use_gqa_in_sdpa
    sdpa_attention.use_gqa_in_sdpa = lambda *_, **__: False
    try:
        yield
    finally:
        sdpa_attention.use_gqa_in_sdpa = usual
