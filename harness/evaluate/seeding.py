"""Fixed random states around what draws from them, so that all runs are asked the same and a score can be repeated."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

_PYTHON, _NUMPY, _TORCH = 0, 1234, 1234  # those of lm-eval's command, so that what is drawn is what it draws


@contextmanager
def seeded() -> Iterator[None]:
    """Seed the random states of Python, NumPy and torch as lm-eval's command does, and put them back afterwards."""
    python, numpy = random.getstate(), np.random.get_state()
    devices = range(torch.cuda.device_count()) if torch.cuda.is_initialized() else ()
    with torch.random.fork_rng(devices=devices):
        random.seed(_PYTHON)
        np.random.seed(_NUMPY)
        torch.manual_seed(_TORCH)
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(numpy)
