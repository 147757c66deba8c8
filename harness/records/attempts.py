"""Attempts at a run, and the measurements of the run that they add up to."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from harness.records.base import Strict
from harness.records.measurements import Fingerprint, Phase, Training

Status = Literal["ok", "oom", "diverged", "failed", "skipped"]
_MAKING = ("load", "train")  # phases of the attempt that made the weights; another one loads them to evaluate


@dataclass(frozen=True, kw_only=True)
class DataCounts(Strict):
    """Rows used and left out, and the hash of the rows that were."""

    train_rows: int
    validation_rows: int
    test_rows: int
    removed_in_test: int  # train rows whose prompt occurs in a test set
    removed_duplicates: int
    removed_too_long: int
    content_sha256: str
    removed: dict[str, int] | None = None  # kind -> training rows left out, those above among them
    check: str | None = None  # id of the data check, in data/<check>.json beside the runs
    packed_rows: int | None = None  # rows that the training rows were packed into


@dataclass(frozen=True, kw_only=True)
class Attempt(Strict):
    """One attempt at a run, with what happened in it alone.

    In older records an attempt that only evaluated repeats what the attempt that trained measured.
    """

    started_at: str  # ISO 8601, UTC
    status: Status
    reason: str  # "" when ok
    phases: dict[str, Phase]
    data: DataCounts | None
    fingerprint: Fingerprint | None
    training: Training | None
    peak_memory_bytes: int | None  # highest peak of load and train, weights included, imports not
    weights_from: str | None  # start of the attempt that made the weights on disk; None if there are none
    provenance: dict[str, Any]
    micro_batch_size: int | None = None  # rows computed at once; fewer than requested where memory ran out
    gradient_checkpointing: bool | None = None
    max_length: int | None = None  # tokens of the longest training row, where memory ran out with longer ones
    # on a GPU: the most that torch's allocator held in load and train, plus the context; of the process with the most
    required_memory_bytes: int | None = None
    summed_peak_memory_bytes: int | None = None  # of all processes that trained together, where there were several
    resumed_at_step: int | None = None  # step of the checkpoint that it resumed from; None: it began at step 0
    seconds: float | None = None  # wall time from its start to its end, however it ended
    ended_in: str | None = None  # the phase that it was in at its end; None before the first
    killed_by: int | None = None  # number of the signal that killed its process, or a rank of it; None: none did
    # what was under way when a signal or a scheduler ended it and it can go on; None: an older record
    stopped: Literal["no", "training", "evaluation"] | None = None

    @property
    def interrupted(self) -> bool:
        """Return whether the attempt was ended from outside and a later one goes on. A failure is no interruption."""
        if self.status != "failed":
            return False
        if self.stopped is None:  # older records: its weights were stored, and it did not finish
            return self.weights_from == self.started_at
        return self.stopped != "no"

    @property
    def concurrent_runs(self) -> int:
        """Return the number of runs that shared its device, this one included; 1 in old records."""
        return int(self.provenance.get("concurrent_runs") or 1)

    @property
    def devices(self) -> float:
        """Return its number of devices: one for each process, or its share of one."""
        return int(self.provenance.get("num_processes") or 1) / self.concurrent_runs


def trained_by(attempts: Sequence[Attempt]) -> Attempt | None:
    """Return the attempt that made the weights on disk; None if there are none."""
    weights_from = attempts[-1].weights_from
    return next((attempt for attempt in attempts if attempt.started_at == weights_from), None)


def combined(attempts: Sequence[Attempt], trains: bool) -> Attempt:
    """Return the last attempt with the measurements of the run, those of the training from the attempt that trained.

    `trains` is False for the untrained model, which every attempt loads alike.
    """
    current, maker = attempts[-1], trained_by(attempts)
    source = current if maker is None or current.training is not None else maker
    loaded = source if trains else next((attempt for attempt in reversed(attempts) if attempt.data), source)
    batching = current if maker is None or current.micro_batch_size is not None else maker
    evaluated = {name: phase for name, phase in current.phases.items() if name not in _MAKING}
    training = _led_to(attempts, source)
    return replace(
        current,
        phases=current.phases if source is current else {**source.phases, **evaluated},
        training=source.training,
        data=source.data or current.data or loaded.data,
        fingerprint=current.fingerprint or (maker or loaded).fingerprint,
        peak_memory_bytes=_highest([attempt.peak_memory_bytes for attempt in training]),
        required_memory_bytes=_highest([attempt.required_memory_bytes for attempt in training]),
        summed_peak_memory_bytes=source.summed_peak_memory_bytes,
        micro_batch_size=batching.micro_batch_size,
        gradient_checkpointing=batching.gradient_checkpointing,
        max_length=batching.max_length,
    )


def _led_to(attempts: Sequence[Attempt], last: Attempt) -> list[Attempt]:
    """Return an attempt and those before it from which its training was resumed, the latest first."""
    chain, before = [last], list(attempts[: attempts.index(last)])
    goes_on = last.resumed_at_step is not None
    while goes_on and before:
        chain.append(before.pop())
        goes_on = chain[-1].resumed_at_step is not None or chain[-1].ended_in == "load"
    return chain


def _highest(peaks: Sequence[int | None]) -> int | None:
    """Return the highest known peak: an attempt that was killed reports none."""
    return max((peak for peak in peaks if peak is not None), default=None)
