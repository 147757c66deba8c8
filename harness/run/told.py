"""What a run's process tells while it works, and what its end means."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from harness.measure import hardware
from harness.records.record import Status
from harness.run import claim, isolate

Watch = Callable[[dict[str, Any]], None]
_GIB = 2**30
_OTHERS_BYTES = _GIB  # of a card: what less would hardly have made room for
_GONE_SECONDS = 3.0  # for the driver to take back what a process held that has just ended


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
    def phase(self) -> str:
        """The phase that the run was in; "" before the first."""
        return self._phase

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


def without_others(ended: isolate.Ended, visible: str | None) -> isolate.Ended:
    """Return an end for lack of a card's memory as a fault of the machine where other programs hold the memory.

    `visible` is the process's CUDA_VISIBLE_DEVICES. Nothing of the process is left on the cards by now.
    """
    if ended.cause != "device_memory" or hardware.device() != "cuda":
        return ended
    deadline = time.monotonic() + _GONE_SECONDS
    while True:
        held = hardware.other_programs_bytes(visible)
        card = max(held, key=held.__getitem__, default="")
        if not card or held[card] <= _OTHERS_BYTES:
            return ended
        if time.monotonic() > deadline:
            break
        time.sleep(_GONE_SECONDS / 10)
    company = f"other programs hold {held[card] / _GIB:.1f} GiB of GPU {card}"
    return replace(ended, kind="raised", cause="machine", reason=f"{ended.reason}; {company}")


def is_machines_fault(ended: isolate.Ended) -> bool:
    """Return whether a process ended for a reason that has nothing to do with its work.

    A signal, a driver, a disk or a network. Memory that ran out is a result, and an error of code or settings would be
    the same the next time.
    """
    return ended.kind in ("raised", "killed") and ended.cause == "machine"
