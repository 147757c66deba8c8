"""The events of one attempt, its status when the process ends, and the fallbacks after out of memory."""

from __future__ import annotations

import contextlib
import dataclasses
import time
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any, Literal

from harness.config.experiment import Experiment
from harness.measure import hardware
from harness.methods.contexts import TrainedWith
from harness.records import redact
from harness.records.events import Emit, Event, Measured, PhaseStarted, Progress
from harness.records.record import Attempt, Status
from harness.records.settings import Fallback
from harness.run import isolate, lock, provenance

_GIB = 2**30
_OTHERS_BYTES = _GIB  # of a GPU; less would hardly have made a difference
_GONE_SECONDS = 3.0  # for the driver to free the memory of a process that has just ended


class LostError(isolate.EndAtOnceError):
    """Another process took the run over. Raised while listening to the run's process, it ends that process."""


class AttemptLog:
    """Events of the run's process so far. Ends the process when the claim is lost: two must not write at once."""

    def __init__(self, watch: Emit, held: lock.Claim | None = None, trains: bool = False) -> None:
        self._watch, self._held, self._trains = watch, held, trains
        self.started_at = _now()
        self._was_stopped = False
        self.facts = Measured()
        self.killed_by: int | None = None  # number of the signal that killed the process, or a rank of it
        self._phase, self._progress = "", ""
        self._began = self._looked = time.monotonic()

    def __call__(self, event: Event) -> None:
        """Collect the facts of the attempt, and pass on the other events.

        Raises:
            LostError: another process took the run over.
        """
        now = time.monotonic()
        if self._held is not None and now - self._looked > lock.HEARTBEAT_SECONDS:
            self._looked = now
            with contextlib.suppress(OSError):  # a file server that stalls; the next look may come through
                if self._held.lost:
                    raise LostError
        match event:
            case Measured():
                self.facts = self.facts.updated(event)
                return
            case PhaseStarted(name):
                self._phase, self._progress = name, ""
            case Progress(done, total):
                self._progress = f" at {done} of {total}"
        self._watch(event)

    @property
    def phase(self) -> str:
        """The latest phase of the run; "" before the first."""
        return self._phase

    @property
    def seconds(self) -> float:
        """Seconds since the start of the attempt, by the monotonic clock."""
        return time.monotonic() - self._began

    def stop(self) -> None:
        """Note that the attempt was ended from outside."""
        self._was_stopped = True

    @property
    def stopped(self) -> Literal["no", "training", "evaluation"]:
        """Return what was under way when the attempt was ended from outside; "no" if it ended by itself."""
        if not self._was_stopped:
            return "no"
        return "training" if self._trains and self.facts.weights_from is None else "evaluation"

    @property
    def has_advanced(self) -> bool:
        """Return whether a later attempt begins further on than this one did. One that does not may end alike."""
        facts = self.facts
        return facts.weights_from is not None or (facts.checkpoint_step or 0) > (facts.resumed_at_step or 0)

    def attempt(self, status: Status, reason: str, weights_from: str | None) -> Attempt:
        """Return the record of the attempt. `weights_from` is of the weights that were there before it."""
        facts = self.facts
        trained_with = {"liger": facts.liger, "optimizer": facts.optimizer}
        return Attempt(
            started_at=self.started_at,
            status=status,
            reason=redact.text(reason),
            phases=facts.phases or {},
            data=facts.data,
            fingerprint=facts.fingerprint,
            training=facts.training,
            peak_memory_bytes=facts.peak_memory_bytes,
            required_memory_bytes=facts.required_memory_bytes,
            summed_peak_memory_bytes=facts.summed_peak_memory_bytes,
            weights_from=facts.weights_from or weights_from,
            resumed_at_step=facts.resumed_at_step,
            micro_batch_size=facts.micro_batch_size,
            gradient_checkpointing=facts.gradient_checkpointing,
            max_length=facts.max_length,
            ended_in=self.phase or None,
            killed_by=self.killed_by,
            stopped=self.stopped,
            seconds=self.seconds,
            provenance={
                **provenance.facts(),
                "command": provenance.command(),
                **isolate.sharing(),
                **(facts.device or {}),
                **{name: value for name, value in trained_with.items() if value is not None},
            },
        )

    def where(self) -> str:
        """Return the progress of the run in words."""
        return f"in phase {self._phase}{self._progress}" if self._phase else "before loading"

    def resume_hint(self) -> str:
        """Return in words the point from which the run can be resumed; "" if it starts again from the beginning."""
        if self.facts.weights_from is not None:
            return "; can be resumed, its weights are kept"
        step = self.facts.checkpoint_step
        return f"; can be resumed from step {step}" if step else ""


def outcome(ended: isolate.Ended, log: AttemptLog) -> tuple[Status, str]:
    """Return the status of an attempt whose process has ended, and the reason; note in `log` how it ended.

    A kill is an interruption if the attempt left a later checkpoint than it began from, or weights; else a failure.
    """
    log.killed_by = ended.killed_by
    if ended.kind == "returned":
        return "ok", ""
    if ended.kind == "oom":
        return "oom", f"{ended.reason} {log.where()}"
    if ended.error_type == "DivergedError":
        return "diverged", ended.reason.removeprefix("DivergedError: ")
    if ended.error_type == "PreemptedError":
        log.stop()
        return "failed", f"preempted {log.where()}{log.resume_hint()}"
    # a step that always crashes would be an interruption without an end, and its run never have a result
    if ended.kind == "killed" and ended.cause == "machine" and log.has_advanced:
        log.stop()
    return "failed", f"{ended.reason} ({log.where()}){log.resume_hint() if ended.kind == 'killed' else ''}"


def without_others(ended: isolate.Ended, visible: str | None) -> isolate.Ended:
    """Return `ended` as a fault of the machine if GPU memory ran out while other programs held over 1 GiB of it.

    `visible` is the process's CUDA_VISIBLE_DEVICES. The process itself holds no GPU memory by now.
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
    """Return True if a process ended through a fault of the machine: a signal, a driver, a disk or a network.

    Out of memory is a result. An error of code or settings would recur on a retry.
    """
    return ended.kind in ("raised", "killed") and ended.cause == "machine"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="milliseconds")


def ladder(experiment: Experiment) -> tuple[Fallback, ...]:
    """Return the settings as configured and their fallbacks, each tried when the one before runs out of memory.

    The end of the last one is the end of the run.
    """
    spec = experiment.train
    whole, micro_batch = spec.global_batch_size // experiment.launch.num_processes, spec.micro_batch_size
    divisors = [rows for rows in range(micro_batch - 1, 0, -1) if whole % rows == 0]
    may_divide = spec.oom.smaller_micro_batches
    sizes = (micro_batch, *(rows for rows in divisors if may_divide and _may(experiment, micro_batch_size=rows)))
    may_checkpoint = spec.oom.gradient_checkpointing and not spec.gradient_checkpointing
    again = may_checkpoint and _may(experiment, gradient_checkpointing=True)
    shorter = sorted({length for length in spec.oom.max_lengths if length < spec.max_length}, reverse=True)
    return (
        *(Fallback(rows, spec.gradient_checkpointing) for rows in sizes),
        *(Fallback(rows, True) for rows in sizes if again),
        *(Fallback(sizes[-1], spec.gradient_checkpointing or again, length) for length in shorter),
    )


def instead(experiment: Experiment) -> Experiment | None:
    """Return the experiment with a quantized base, to train in addition to one that did not fit.

    Return None if `oom.quantized_base` is off or the method has no quantized form.
    """
    method = experiment.method.quantized() if experiment.train.oom.quantized_base else None
    return None if method is None else dataclasses.replace(experiment, method=method)


def _may(experiment: Experiment, **changed: Any) -> bool:
    """Return whether the method can be trained with these settings changed; they were not checked when composed."""
    return not experiment.method.unsupported(TrainedWith(dataclasses.replace(experiment.train, **changed)))
