"""Several runs at once on one machine: a queue, and slots that each have a device or a part of the processor's cores.

A run is a process of its own already, so that a slot is no more than a thread that waits for one.
"""

from __future__ import annotations

import os
import queue
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from harness.measure import hardware
from harness.records.specs import Strict
from harness.run import isolate
from harness.sources.assets import Say
from harness.train.preemption import SIGNALS

_LOOK_SECONDS = 0.2  # how often it is looked whether anyone is at work, or has interrupted
_PATIENCE_SECONDS = 60.0  # for runs to finish a step, write a checkpoint and say so
_SLOTS_OF_A_CPU = 2  # a run needs memory of its own, so that it is not one for each core


@dataclass(frozen=True, kw_only=True)
class LocalSpec(Strict):
    """`hydra.launcher` of `hydra/launcher=local`."""

    n_jobs: Annotated[int, Field(ge=1)] | None = None  # runs at once; null: one for each GPU, or two on a CPU


@dataclass(frozen=True)
class Made:
    """What became of a job; asked for its value it raises what the job raised, as Hydra's own launchers do."""

    value: Any = None
    error: BaseException | None = None

    @property
    def return_value(self) -> Any:
        """The value."""
        if self.error is not None:
            raise self.error
        return self.value


class LeftError(Exception):
    """The runs are under way and are not waited for: what can be done with them now."""


def shares(spec: LocalSpec) -> list[isolate.Share]:
    """The parts that this machine's devices and cores are divided into.

    Raises:
        ValueError: more parts than devices, or than cores.
    """
    devices, cores = hardware.device_names(), len(os.sched_getaffinity(0))
    parts = spec.n_jobs or len(devices) or min(_SLOTS_OF_A_CPU, cores)
    has, thing = (len(devices), "GPUs") if devices else (cores, "cores")
    if parts > has:
        raise ValueError(
            f"hydra.launcher.n_jobs={parts}: this machine has {has} {thing} for it, and each run gets one of its own; "
            f"use at most {has}"
        )
    told = os.environ.get("OMP_NUM_THREADS", "")
    threads = max(1, min(cores // parts, int(told) if told.isdigit() and int(told) else cores))
    environments = [{"CUDA_VISIBLE_DEVICES": name} for name in devices[:parts]] or [{} for _ in range(parts)]
    at_once = 1 if devices else parts
    return [isolate.Share(environment, threads, runs=at_once) for environment in environments]


def at_once(jobs: Sequence[Callable[[], Any]], parts: Sequence[isolate.Share], say: Say) -> list[Made]:
    """Do the jobs in their order, as many at once as there are parts; what a job raises costs that job alone.

    Raises:
        KeyboardInterrupt: interrupted. After the first Ctrl-C what runs is finished, after the second it is stopped.
        SystemExit: told to end by SIGTERM or SIGUSR2. What runs is stopped, as it is by them where runs come alone.
    """
    work = _Work(jobs)
    slots = [threading.Thread(target=work.fill, args=(part,), daemon=True) for part in parts[: len(jobs)]]
    told: int | None = None
    with _counted_interrupts() as interrupts:
        for slot in slots:
            slot.start()
        while not work.idle(len(slots), _LOOK_SECONDS):
            told = next((number for number in interrupts if number in SIGNALS), None)
            if told is not None or len(interrupts) > 1:
                work.closing.set()
                for part in parts:
                    part.stop.why = "preempted" if told else "interrupted"
                work.idle(len(slots), _PATIENCE_SECONDS)
                break
            if interrupts and not work.closing.is_set():
                work.closing.set()
                say("interrupted: the runs under way are finished, no other is started; Ctrl-C again stops them")
    work.over.set()
    if told is not None:
        raise SystemExit(128 + told)
    if interrupts:
        raise KeyboardInterrupt
    return work.results


class _Work:
    """The queue of jobs, and what became of each."""

    def __init__(self, jobs: Sequence[Callable[[], Any]]) -> None:
        self.results = [Made() for _ in jobs]
        self.closing, self.over = threading.Event(), threading.Event()
        self._waiting: queue.SimpleQueue[tuple[int, Callable[[], Any]]] = queue.SimpleQueue()
        for numbered in enumerate(jobs):
            self._waiting.put(numbered)
        self._idle = threading.Semaphore(0)
        self._seen_idle = 0

    def idle(self, slots: int, seconds: float) -> bool:
        """Whether all slots have found nothing more to do, at the latest after so many seconds."""
        while self._seen_idle < slots and self._idle.acquire(timeout=seconds):
            self._seen_idle += 1
        return self._seen_idle == slots

    def fill(self, part: isolate.Share) -> None:
        """Keep a slot busy until there is nothing more to do."""
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
        # the kernel ends the server of processes with the thread that started it, which may have been this one
        self.over.wait()


@contextmanager
def _counted_interrupts() -> Iterator[list[int]]:
    """Note Ctrl-C, and what schedulers send, instead of being torn away by it."""
    found: list[int] = []
    numbers = (signal.SIGINT, *SIGNALS)
    before = {number: signal.signal(number, lambda number, frame: found.append(number)) for number in numbers}
    try:
        yield found
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
