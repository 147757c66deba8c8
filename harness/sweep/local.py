"""Concurrent runs on one machine: a queue, and slots that each have a device or a share of the cores.

Every run is a separate process. A slot is only a thread that waits for it.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from harness.measure import hardware
from harness.records.base import Strict
from harness.run import isolate
from harness.sources.packages import Say
from harness.train.signals import SIGNALS, heeded, leave_terminal

_LOOK_SECONDS = 0.2  # interval of the checks for idle slots and interrupts
_RECORD_SECONDS = 60.0  # for runs to be recorded once their processes have ended
NONE_LEFT = 3  # exit code of a worker that was to make one run and found none
_SLOTS_OF_A_CPU = 2  # not one per core, since every run needs its own memory


@dataclass(frozen=True, kw_only=True)
class LocalSpec(Strict):
    """Settings `hydra.launcher` of `hydra/launcher=local`."""

    n_jobs: Annotated[int, Field(ge=1)] | None = None  # runs at once; null: one for each GPU, or two on a CPU


@dataclass(frozen=True)
class Made:
    """Result of a job. As in Hydra's own launchers, reading the value raises the error of the job."""

    value: Any = None
    error: BaseException | None = None

    @property
    def return_value(self) -> Any:
        """Return the value, or raise the error of the job."""
        if self.error is not None:
            raise self.error
        return self.value


class DetachedSweepError(Exception):
    """Runs were submitted and are not waited for. The message names the commands that follow them."""


def shares(spec: LocalSpec) -> list[isolate.Share]:
    """Return the parts of this machine: one per concurrent run, each with its own devices or cores.

    Raises:
        ValueError: there are more parts than devices, or than cores without devices.
    """
    devices, cores = hardware.device_names(), len(os.sched_getaffinity(0))
    parts = spec.n_jobs or len(devices) or min(_SLOTS_OF_A_CPU, cores)
    has, thing = (len(devices), "GPUs") if devices else (cores, "cores")
    if parts > has:
        raise ValueError(
            f"hydra.launcher.n_jobs={parts}: this machine has {has} {thing} for it, and each run gets one of its own; "
            f"use at most {has}"
        )
    wanted = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, min(cores // parts, int(wanted) if wanted.isdigit() and int(wanted) else cores))
    environments = [{"CUDA_VISIBLE_DEVICES": name} for name in devices[:parts]] or [{} for _ in range(parts)]
    at_once = 1 if devices else parts
    return [isolate.Share(environment, threads, runs=at_once) for environment in environments]


def at_once(jobs: Sequence[Callable[[], Any]], parts: Sequence[isolate.Share], say: Say) -> list[Made]:
    """Execute the jobs in order, as many at once as there are parts. An error in a job does not affect the others.

    Raises:
        KeyboardInterrupt: interrupted. The first Ctrl-C lets current runs finish, the second stops them, the third does
            not wait until they have stopped.
        SystemExit: SIGTERM or SIGUSR2 arrived. Current runs are stopped, as in sequential execution.
    """
    work = _Work(jobs)
    slots = [threading.Thread(target=work.fill, args=(part,), daemon=True) for part in parts[: len(jobs)]]
    with _counted_interrupts() as interrupts:
        for slot in slots:
            slot.start()
        while not work.idle(len(slots), _LOOK_SECONDS):
            received = next((number for number in interrupts if number in SIGNALS), None)
            if received is not None or len(interrupts) > 1:
                work.closing.set()
                for part in parts:
                    part.stop.why = "preempted" if received else "interrupted"
                _wait_for_ends(work, len(slots), interrupts)
                break
            if interrupts and not work.closing.is_set():
                work.closing.set()
                say("interrupted: the runs under way are finished, no other is started; Ctrl-C again stops them")
    work.over.set()
    received = next((number for number in interrupts if number in SIGNALS), None)  # as late as the last run's end
    if received is not None:
        raise SystemExit(128 + received)
    if interrupts:
        raise KeyboardInterrupt
    return work.results


def _wait_for_ends(work: _Work, slots: int, interrupts: Sequence[int]) -> None:
    """Wait for runs that were told to end: one that still writes a checkpoint is killed with this process.

    A further Ctrl-C ends the wait; a scheduler's second signal does not.
    """
    before, deadline = interrupts.count(signal.SIGINT), time.monotonic() + isolate.END_SECONDS + _RECORD_SECONDS
    while not work.idle(slots, _LOOK_SECONDS):
        if interrupts.count(signal.SIGINT) > before or time.monotonic() > deadline:
            return


class _Work:
    """Queue of jobs, and the result of each."""

    def __init__(self, jobs: Sequence[Callable[[], Any]]) -> None:
        self.results = [Made() for _ in jobs]
        self.closing, self.over = threading.Event(), threading.Event()
        self._waiting: queue.SimpleQueue[tuple[int, Callable[[], Any]]] = queue.SimpleQueue()
        for numbered in enumerate(jobs):
            self._waiting.put(numbered)
        self._idle = threading.Semaphore(0)
        self._seen_idle = 0

    def idle(self, slots: int, seconds: float) -> bool:
        """Wait until all slots are idle and return True; False if a wait of `seconds` saw no further slot idle."""
        while self._seen_idle < slots and self._idle.acquire(timeout=seconds):
            self._seen_idle += 1
        return self._seen_idle == slots

    def fill(self, part: isolate.Share) -> None:
        """Execute jobs in one slot until the queue is empty or closed."""
        isolate.share.set(part)
        while not self.closing.is_set():
            try:
                position, job = self._waiting.get_nowait()
            except queue.Empty:
                break
            try:
                self.results[position] = Made(value=job())
            except BaseException as error:
                self.results[position] = Made(error=error)
        self._idle.release()
        # the kernel ends the fork server with the thread that started it, which may be this one
        self.over.wait()


@contextmanager
def _counted_interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and the signals of schedulers in the yielded list instead of being ended by them."""
    interrupts: list[int] = []

    def count(number: int, frame: Any) -> None:
        leave_terminal(number)
        interrupts.append(number)

    before = {number: signal.signal(number, count) for number in (signal.SIGINT, *heeded())}
    try:
        yield interrupts
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
