"""The GPUs that a run may compute on, asked of their driver, so that torch need not be imported."""

import os
from collections.abc import Callable
from typing import Any


def ask_gpus(question: Callable[[Any, Any], int]) -> list[int]:
    """The driver's answers about every visible GPU."""
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None and visible.strip() in {"", "-1", "NoDevFiles"}:
        return []
    import pynvml

    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return []
    try:
        handles = [pynvml.nvmlDeviceGetHandleByIndex(index) for index in range(pynvml.nvmlDeviceGetCount())]
        return [question(pynvml, handle) for handle in _visible(handles, visible)]
    finally:
        pynvml.nvmlShutdown()


def _visible(handles: list[Any], visible: str | None) -> list[Any]:
    """The GPUs named by index; all of them where they are named by UUID, or not at all."""
    names = [] if visible is None else [name.strip() for name in visible.split(",")]
    chosen = [handles[int(name)] for name in names if name.isdigit() and int(name) < len(handles)]
    return chosen or handles
