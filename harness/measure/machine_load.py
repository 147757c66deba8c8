"""Surroundings of a phase: other processes on the processor and the GPU, limits, clocks, and the phase's energy.

Counters are read at both ends of a phase. A GPU's clock falls as soon as the GPU is idle. It is therefore also
sampled between steps, while the device still works through its queue.
"""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from harness.measure import proc
from harness.measure.control_group import throttled_seconds
from harness.measure.nvml import Gpus
from harness.records.record import Conditions, Phase

_STAT = Path("/proc/stat")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts (2), stolen by the hypervisor: proc_stat(5)
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Look:
    """Counters at one moment; None is unknown."""

    wall: float
    own: float  # processor seconds of this process, all threads
    busy: float | None  # of the machine
    throttled: float | None
    energy: tuple[float | None, ...]  # joules of each GPU
    limited: tuple[dict[str, float] | None, ...]  # seconds of each limit, of each GPU
    retries: int | None


@dataclass(frozen=True)
class _Clock:
    """The clocks of some GPUs at one moment, the worst of each."""

    share: float | None
    celsius: int | None
    reasons: tuple[str, ...] | None


class Surroundings:
    """Reads counters at the edges of phases.

    Args:
        cuda: whether the run computes on a CUDA device. Create the object before this process has a context there.
    """

    def __init__(self, cuda: bool) -> None:
        self._gpus = Gpus() if cuda else None
        self._samples: list[_Clock] = []

    def look(self) -> Look:
        """Return the counters now; on CUDA call it when the device is idle."""
        gpus, self._samples = self._gpus, []
        if gpus is not None:
            gpus.find()
        return Look(
            wall=time.perf_counter(),
            own=time.process_time() + _children_seconds(),
            busy=busy_seconds(),
            throttled=throttled_seconds(),
            energy=tuple(gpus.energy_joules(index) for index in range(len(gpus))) if gpus else (),
            limited=tuple(gpus.limited_seconds(index) for index in range(len(gpus))) if gpus else (),
            retries=_allocation_retries() if gpus is not None else None,
        )

    def sample(self) -> None:
        """Sample the clocks of the GPUs while they compute."""
        if self._gpus:
            self._samples.append(_clock(self._gpus, used_gpus()))

    def since(self, before: Look) -> dict[str, Any]:
        """Return the fields of a `Phase` that come from comparing now with the phase's beginning."""
        samples = self._samples
        now = self.look()
        gpus, used = self._gpus, used_gpus() if self._gpus is not None else []
        device = _sum([gpus.own_bytes(index) for index in used]) if gpus is not None else None
        return {
            "device_bytes": device,
            "context_bytes": None if gpus is None else _context_bytes(gpus, used, device),
            "paged_bytes": _paged_bytes() if gpus is not None else None,
            "allocation_retries": _less(now.retries, before.retries),
            "energy_joules": _sum([_used_energy(index, before, now) for index in used]),
            "conditions": self._conditions(before, now, used, samples),
        }

    def _conditions(self, before: Look, now: Look, used: list[int], samples: list[_Clock]) -> Conditions:
        gpus = self._gpus
        clocks = [*samples, _clock(gpus, used)] if gpus is not None else []
        others = [gpus.other_processes(index) for index in used] if gpus is not None else []
        reasons = [clock.reasons for clock in clocks if clock.reasons is not None]
        return Conditions(
            cpu_cores=os.cpu_count(),
            other_cpu_cores=other_cores(before, now),
            throttled_seconds=_less(now.throttled, before.throttled),
            other_device_processes=max((processes for processes in others if processes is not None), default=None),
            clock_share=min((c.share for c in samples or clocks if c.share is not None), default=None),
            temperature_celsius=max((c.celsius for c in clocks if c.celsius is not None), default=None),
            throttle_reasons=tuple(dict.fromkeys(r for some in reasons for r in some)) if reasons else None,
            limited_seconds=_limited(before, now, used),
        )


def _context_bytes(gpus: Gpus, used: list[int], above: int | None) -> int | None:
    """Return the memory of this process outside torch's allocator; `above` is what all processes took since its start.

    None where other processes are on a GPU and the driver does not tell their memory from this one's.
    """
    held = _sum([gpus.held_bytes(index) for index in used])
    if held is None and not any(gpus.other_processes(index) for index in used):
        held = above
    return None if held is None else max(0, held - _reserved_bytes(used))


def _clock(gpus: Gpus, used: list[int]) -> _Clock:
    shares = [share for index in used if (share := gpus.clock_share(index)) is not None]
    degrees = [celsius for index in used if (celsius := gpus.temperature_celsius(index)) is not None]
    reasons = [some for index in used if (some := gpus.throttle_reasons(index)) is not None]
    every = tuple(dict.fromkeys(reason for some in reasons for reason in some))
    return _Clock(min(shares, default=None), max(degrees, default=None), every if reasons else None)


def _used_energy(index: int, before: Look, now: Look) -> float | None:
    """Return the joules that a GPU has used between two looks."""
    if index >= min(len(before.energy), len(now.energy)):
        return None
    return _less(now.energy[index], before.energy[index])


def _limited(before: Look, now: Look, used: list[int]) -> dict[str, float] | None:
    """Return the seconds between two looks in which each limit held a GPU back, of the one held back most."""
    seconds: dict[str, float] = {}
    is_known = False
    for index in used:
        if index >= min(len(before.limited), len(now.limited)):
            continue
        earlier, later = before.limited[index], now.limited[index]
        if earlier is None or later is None:
            continue
        is_known = True
        for name in later:
            seconds[name] = max(seconds.get(name, 0.0), later[name] - earlier.get(name, later[name]))
    return seconds if is_known else None


def other_cores(before: Look, now: Look) -> float | None:
    """Return the cores that others kept busy between two looks, on average; None where the kernel does not count."""
    busy, wall = _less(now.busy, before.busy), now.wall - before.wall
    if not busy or wall <= 0:  # a kernel that shows a container nothing shows zeros
        return None
    return max(0.0, busy - (now.own - before.own)) / wall


def together(earlier: Phase, later: Phase) -> dict[str, Any]:
    """Return the fields of `since` for a phase that was entered again: sums where values add up, else the worse one."""
    return {
        "device_bytes": _both(max, earlier.device_bytes, later.device_bytes),
        "context_bytes": _both(max, earlier.context_bytes, later.context_bytes),
        "paged_bytes": _both(max, earlier.paged_bytes, later.paged_bytes),
        "allocation_retries": _both(sum, earlier.allocation_retries, later.allocation_retries),
        "energy_joules": _both(sum, earlier.energy_joules, later.energy_joules),
        "conditions": _worse(earlier, later),
    }


def _worse(earlier: Phase, later: Phase) -> Conditions | None:
    """Return the conditions of two stretches of one phase taken together; None where either is unknown."""
    a, b = earlier.conditions, later.conditions
    if a is None or b is None:
        return None
    seconds = earlier.seconds + later.seconds
    cores = [(part.other_cpu_cores, phase.seconds) for part, phase in ((a, earlier), (b, later))]
    weighted = [(value, length) for value, length in cores if value is not None]
    reasons = [part.throttle_reasons for part in (a, b) if part.throttle_reasons is not None]
    return Conditions(
        cpu_cores=b.cpu_cores,
        other_cpu_cores=sum(v * s for v, s in weighted) / seconds if len(weighted) == 2 and seconds else None,
        throttled_seconds=_both(sum, a.throttled_seconds, b.throttled_seconds),
        other_device_processes=_both(max, a.other_device_processes, b.other_device_processes),
        clock_share=_both(min, a.clock_share, b.clock_share),
        temperature_celsius=_both(max, a.temperature_celsius, b.temperature_celsius),
        throttle_reasons=tuple(dict.fromkeys(r for some in reasons for r in some)) if len(reasons) == 2 else None,
        limited_seconds=_added(a.limited_seconds, b.limited_seconds),
    )


def _added(a: dict[str, float] | None, b: dict[str, float] | None) -> dict[str, float] | None:
    """Return the seconds of each limit in two stretches; None where either is unknown."""
    return None if a is None or b is None else {name: a.get(name, 0.0) + b.get(name, 0.0) for name in {**a, **b}}


def _sum(values: Sequence[N | None]) -> Any:
    """Return the sum; None where there is nothing, or something unknown."""
    numbers = [value for value in values if value is not None]
    return sum(numbers) if values and len(numbers) == len(values) else None


def _both(of: Any, a: N | None, b: N | None) -> Any:
    """Return `of` applied to two values; None where either is unknown."""
    values: Sequence[Any] = (a, b)
    return None if None in values else of(values)


def _less(now: N | None, before: N | None) -> N | None:
    return None if now is None or before is None else now - before


def busy_seconds() -> float | None:
    """Return the processor seconds that the whole machine has spent on anything, or that its host has taken from it."""
    try:
        first = _STAT.read_text().split("\n", 1)[0].split()
        return sum(int(first[1:][i]) for i in _BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _children_seconds() -> float:
    """Return the processor seconds of this process's living children: they are part of the run."""
    seconds = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            fields = proc.stat_of(pid)
            seconds += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")  # user and system
    return seconds


def _allocation_retries() -> int:
    import torch

    return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))


def used_gpus() -> list[int]:
    """Return torch's indices of the GPUs that hold tensors of this process, or have since peaks were last reset."""
    import torch

    held = [index for index in range(torch.cuda.device_count()) if torch.cuda.max_memory_allocated(index)]
    return held or [torch.cuda.current_device()]


def _reserved_bytes(gpus: Sequence[int]) -> int:
    """Return the bytes that torch's allocator holds on some GPUs."""
    import torch

    return sum(torch.cuda.memory_reserved(index) for index in gpus)


def _paged_bytes() -> int:
    """Return the managed memory that bitsandbytes holds for paged optimizers, wherever the driver keeps its pages."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return 0
    paged = functional.GlobalPageManager.get_instance().paged_tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in paged)
