"""What a run's process tells while it works, and what its end means."""

from __future__ import annotations

import errno
import re
import time
from collections.abc import Callable
from typing import Any

from harness.records.record import Status
from harness.run import claim, isolate

Watch = Callable[[dict[str, Any]], None]
_ERRNO = re.compile(r"\[Errno (\d+)\]")
_PASSING = {
    errno.EIO, errno.ENOSPC, errno.EDQUOT, errno.ESTALE, errno.EAGAIN, errno.ENETDOWN, errno.ENETUNREACH, errno.ENOBUFS,
    errno.ECONNRESET, errno.ECONNABORTED, errno.ECONNREFUSED, errno.EHOSTDOWN, errno.EHOSTUNREACH, errno.ETIMEDOUT,
    errno.EREMOTEIO,
}  # fmt: skip
_OF_A_DEVICE = re.compile(
    r"CUDA error|CUDA driver error|cuDNN error|cuBLAS error|CUBLAS_STATUS|CUDNN_STATUS|NCCL error|NVML"
)
_OF_ANOTHER = re.compile(r"has ended with exit code -\d+")  # one of several processes, by a signal
_OF_A_NETWORK = {"ConnectionError", "ConnectError", "ConnectTimeout", "ReadTimeout", "TimeoutError", "DistBackendError"}


class LostError(Exception):
    """Another process took the run over: raised where the run's process is listened to, it ends that process."""


class Told:
    """What the run's process has told so far. Ends that process when the claim is lost: two must not write at once."""

    def __init__(self, watch: Watch, held: claim.Claim | None = None) -> None:
        self._watch, self._held = watch, held
        self.facts: dict[str, Any] = {}
        self._phase, self._progress = "", ""
        self._began = self._looked = time.monotonic()

    def __call__(self, event: dict[str, Any]) -> None:
        """Keep the facts, and pass on everything else."""
        now = time.monotonic()
        if self._held is not None and now - self._looked > claim.HEARTBEAT_SECONDS:
            self._looked = now
            if self._held.lost:
                raise LostError
        self.facts.update(event.get("facts", {}))
        if "phase" in event:
            self._phase, self._progress = event["phase"], ""
        if "total" in event:
            self._progress = f" at {event['done']} of {event['total']}"
        if "facts" not in event:
            self._watch(event)

    @property
    def seconds(self) -> float:
        """How long it has been told, whatever the clock on the wall says meanwhile."""
        return time.monotonic() - self._began

    def where(self) -> str:
        """How far the run had come."""
        return f"in phase {self._phase}{self._progress}" if self._phase else "before loading"

    def goes_on(self) -> str:
        """Where the run goes on when it is asked for again; "" where that is the beginning."""
        if "weights_from" in self.facts:
            return "; can be resumed, its weights are kept"
        step = self.facts.get("checkpoint_step")
        return f"; can be resumed from step {step}" if step else ""


def outcome(ended: isolate.Ended, told: Told) -> tuple[Status, str]:
    """What becomes of an attempt whose process has ended so, and why."""
    if ended.kind == "returned":
        return "ok", ""
    if ended.kind == "oom":
        return "oom", f"{ended.reason} {told.where()}"
    if ended.error_type == "DivergedError":
        return "diverged", ended.reason.removeprefix("DivergedError: ")
    if ended.error_type == "PreemptedError":
        return "failed", f"preempted {told.where()}{told.goes_on()}"
    return "failed", f"{ended.reason} ({told.where()}){told.goes_on() if ended.kind == 'killed' else ''}"


def is_machines_fault(ended: isolate.Ended) -> bool:
    """Whether a process ended for a reason that has nothing to do with what it was asked to do.

    A signal, a driver, a disk or a network. Memory that ran out is a result, and an error of code or settings would be
    the same the next time.
    """
    if ended.kind == "raised":
        number = _ERRNO.search(ended.reason)
        of_the_system = number is not None and int(number[1]) in _PASSING
        of_a_device = _OF_A_DEVICE.search(ended.reason) and "device-side assert" not in ended.reason
        of_another = ended.error_type == "RankError" and bool(_OF_ANOTHER.search(ended.reason))
        return of_the_system or bool(of_a_device) or of_another or ended.error_type in _OF_A_NETWORK
    return ended.kind == "killed"
