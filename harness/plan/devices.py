"""Memory and peak speed of devices, looked up by name or given as an amount of memory."""

from __future__ import annotations

import re
from dataclasses import dataclass

from harness.measure.memory import available_bytes

GIBIBYTE = 2**30
MEBIBYTE = 2**20
CONTEXT_BYTES = GIBIBYTE // 2  # taken by CUDA and its libraries before the first tensor: 0.4 to 0.6 GiB
USABLE = 0.95  # share of the remaining memory: allocators leave gaps, and the prediction may be a few percent off

# name -> (MiB that nvidia-smi reports, dense bfloat16 TFLOP/s with float32 accumulation). The speed is from NVIDIA's
# data sheet or architecture white paper of that card.
_KNOWN = {
    "rtx-3090": (24_576, 71.0),
    "rtx-4090": (24_564, 165.2),
    "rtx-5090": (32_607, 209.5),
    "rtx-a6000": (49_140, 154.8),
    "l4": (23_034, 121.0),
    "l40s": (46_068, 362.1),
    "a100-40gb": (40_960, 312.0),
    "a100-80gb": (81_920, 312.0),
    "h100": (81_559, 989.4),
    "h200": (143_771, 989.4),
}
_UNITS = {"gib": GIBIBYTE, "gb": 10**9, "mib": MEBIBYTE, "mb": 10**6}


@dataclass(frozen=True)
class Device:
    """Device of a planned run. `flops_per_second` is None if only the memory is known."""

    name: str
    memory_bytes: int
    flops_per_second: float | None
    on_gpu: bool

    @property
    def usable_bytes(self) -> int:
        """Return the bytes that tensors may use."""
        context = CONTEXT_BYTES if self.on_gpu else 0
        return int(USABLE * (self.memory_bytes - context))


def named(text: str, setting: str = "device") -> Device:
    """Return the device for a name or an amount of memory.

    Args:
        text: `h200`, `24GiB` (a GPU of that size) or `cpu` (this machine, with the memory that is available now).
        setting: the setting that gave the text, for the error.

    Raises:
        ValueError: `text` is neither a known name nor an amount, or the amount is too small; lists the names.
    """
    name = text.strip().lower()
    if name in _KNOWN:
        mebibytes, teraflops = _KNOWN[name]
        return Device(name, mebibytes * MEBIBYTE, teraflops * 1e12, on_gpu=True)
    if name == "cpu":
        memory = available_bytes()
        if memory is None:
            raise ValueError(f"{setting}=cpu: this system does not say how much memory is available; give an amount")
        return Device("cpu", memory, None, on_gpu=False)
    amount = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(gib|gb|mib|mb)", name)
    if amount is None:
        raise ValueError(
            f"{setting}={text}: give one of {', '.join(_KNOWN)}, cpu (this machine), or an amount such as 24GiB"
        )
    device = Device(text.strip(), int(float(amount[1]) * _UNITS[amount[2]]), None, on_gpu=True)
    if device.usable_bytes <= 0:
        raise ValueError(f"{setting}={text}: CUDA itself takes {CONTEXT_BYTES / GIBIBYTE:g} GiB; give more than that")
    return device
