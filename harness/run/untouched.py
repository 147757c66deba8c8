"""Imports that leave CUDA alone, so that a process can fork others that use it.

bitsandbytes asks torch for the compute capability of every card when it is imported (bitsandbytes/cuda_specs.py), and
torch initializes CUDA to answer. A process that is forked after that cannot use a card: torch refuses every call with
"Cannot re-initialize CUDA in forked subprocess".
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from harness.measure import hardware


@contextlib.contextmanager
def cuda_untouched() -> Iterator[None]:
    """Answer torch's queries about devices from NVML or the driver within this context."""
    import torch

    cards = hardware.usable_cards()

    def card_of(device: Any) -> hardware.Card:
        index = 0 if device is None else torch.cuda._utils._get_device_index(device)
        return cards[index]

    answers = {
        "is_available": lambda: bool(cards),
        "device_count": lambda: len(cards),
        "current_device": lambda: 0,
        "get_device_capability": lambda device=None: card_of(device).capability,
        "get_device_name": lambda device=None: card_of(device).name,
        "is_bf16_supported": lambda including_emulation=True: (
            bool(cards) and (including_emulation or cards[0].capability[0] >= hardware.BFLOAT16_CAPABILITY)
        ),
    }
    originals = {name: getattr(torch.cuda, name) for name in answers}
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)
    try:
        yield
    finally:
        for name, original in originals.items():
            setattr(torch.cuda, name, original)


def is_cuda_touched() -> bool:
    """Return True if this process, or the one that it was forked from, has touched CUDA; False without torch.

    `torch.cuda.is_initialized` alone is False in a fork of a process that has. `_is_in_bad_fork` is True as well where
    nothing but the number of devices was asked of CUDA.
    """
    import sys

    torch = sys.modules.get("torch")
    return torch is not None and (torch.cuda.is_initialized() or torch.cuda._is_in_bad_fork())
