"""Training whose results on a GPU repeat to the bit, at the price of speed. On a CPU they do without it.

Backward passes of fused attention, of embeddings and of indexing add with atomics on a GPU, in any order: two runs of
one recipe differ in the last bits from the first step on, and so does a run that is resumed.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator

import torch

_WORKSPACE = "CUBLAS_WORKSPACE_CONFIG"  # read by cuBLAS when it starts, and asked for by torch


def prepare(wanted: bool) -> None:
    """Set the environment that must be set before this process first computes on a GPU."""
    if wanted:
        os.environ.setdefault(_WORKSPACE, ":4096:8")


@contextlib.contextmanager
def algorithms(wanted: bool) -> Iterator[None]:
    """Let torch compute by algorithms that repeat to the bit, and raise where it has none.

    Attention is then computed by plain matrix products. Written from torch's documentation; not run on a GPU.
    """
    if not wanted:
        yield
        return
    backends = torch.backends.cuda
    fused = [
        (backends.flash_sdp_enabled(), backends.enable_flash_sdp),
        (backends.mem_efficient_sdp_enabled(), backends.enable_mem_efficient_sdp),
        (backends.cudnn_sdp_enabled(), backends.enable_cudnn_sdp),
    ]
    was_on, filled = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    try:
        for _, enable in fused:
            enable(False)
        torch.use_deterministic_algorithms(True)
        torch.utils.deterministic.fill_uninitialized_memory = False  # nothing reads memory that was not written
        yield
    finally:
        torch.use_deterministic_algorithms(was_on)
        torch.utils.deterministic.fill_uninitialized_memory = filled
        for enabled, enable in fused:
            enable(enabled)
