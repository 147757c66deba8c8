"""Processes that prepare batches ahead of training: room for what they pass on, and a limit on waiting for them."""

from __future__ import annotations

import os
from pathlib import Path

from harness.records.settings import TrainSpec

LIMIT_SECONDS = 600.0  # without a batch, after which a loader is taken to hang; torch would wait for ever
_AHEAD = 2  # batches that torch has each process prepare
_TENSORS = 4  # of a batch: ids, labels, mask, positions; 8 bytes an entry
_BESIDE = 16 * 2**20  # of the interpreter's own, and of other programs
_SHARED_MEMORY = Path("/dev/shm")
_MEBIBYTE = 2**20


def limit(spec: TrainSpec) -> float:
    """Return the seconds to wait for a batch; 0, for no limit, without processes of their own.

    Raises:
        ValueError: the machine has too little shared memory for the batches; says how to have more. torch would end
            with a bus error, or name the lack of space on a device.
    """
    if not spec.dataloader_num_workers:
        return 0.0
    batch = spec.micro_batch_size * spec.max_length * _TENSORS * 8
    needed = spec.dataloader_num_workers * _AHEAD * batch + _BESIDE
    free = _free()
    if free is not None and free < needed:
        raise ValueError(
            f"train.dataloader_num_workers={spec.dataloader_num_workers}: these processes pass batches on through "
            f"{_SHARED_MEMORY}, where {free / _MEBIBYTE:.0f} MiB are free and {needed / _MEBIBYTE:.0f} MiB are needed: "
            "give the container more, as in docker run --shm-size=1g, or set train.dataloader_num_workers=0"
        )
    return LIMIT_SECONDS


def _free() -> int | None:
    try:
        found = os.statvfs(_SHARED_MEMORY)
    except OSError:  # no Linux, or none mounted: torch uses files elsewhere
        return None
    return found.f_bavail * found.f_frsize
