"""What went on beside a phase: other processes on the processor and the GPU, limits, clocks; and the phase's energy.

Two looks, one at each end of a phase, and nothing in between: measuring does not disturb what is measured.
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

from harness.measure.device import Gpu
from harness.records.record import Conditions, Phase

_STAT = Path("/proc/stat")
_GROUP_STAT = Path("/sys/fs/cgroup")
_BUSY = (0, 1, 2, 5, 6, 7)  # user, nice, system, interrupts (2), stolen by the hypervisor: proc_stat(5)
N = TypeVar("N", int, float)


@dataclass(frozen=True)
class Look:
    """Counters at one moment; None is unknown."""

    wall: float
    own: float  # processor seconds of this process, all threads
    busy: float | None  # of the machine
    throttled: float | None
    energy: float | None
    retries: int | None


class Surroundings:
    """Looks about at the edges of phases.

    Args:
        cuda: whether the run computes on a CUDA device. To be made before this process has a context there.
    """

    def __init__(self, cuda: bool) -> None:
        self._gpu = Gpu() if cuda else None

    def look(self) -> Look:
        """The counters now; on CUDA to be called when the device has nothing to do."""
        if self._gpu is not None:
            self._gpu.find()
        return Look(
            wall=time.perf_counter(),
            own=time.process_time() + _children_seconds(),
            busy=busy_seconds(),
            throttled=_throttled_seconds(),
            energy=self._gpu.energy_joules() if self._gpu else None,
            retries=_allocation_retries() if self._gpu else None,
        )

    def since(self, before: Look) -> dict[str, Any]:
        """The fields of a `Phase` that are found out by comparing now with the phase's beginning."""
        now = self.look()
        return {
            "device_bytes": self._gpu.own_bytes() if self._gpu else None,
            "paged_bytes": _paged_bytes() if self._gpu else None,
            "allocation_retries": _less(now.retries, before.retries),
            "energy_joules": _less(now.energy, before.energy),
            "conditions": self._conditions(before, now),
        }

    def _conditions(self, before: Look, now: Look) -> Conditions:
        gpu = self._gpu
        return Conditions(
            cpu_cores=os.cpu_count(),
            other_cpu_cores=other_cores(before, now),
            throttled_seconds=_less(now.throttled, before.throttled),
            other_device_processes=gpu.other_processes() if gpu else None,
            clock_share=gpu.clock_share() if gpu else None,
            temperature_celsius=gpu.temperature_celsius() if gpu else None,
            throttle_reasons=gpu.throttle_reasons() if gpu else None,
        )


def other_cores(before: Look, now: Look) -> float | None:
    """Cores that other processes kept busy between two looks, on average; None where the kernel does not count."""
    busy, wall = _less(now.busy, before.busy), now.wall - before.wall
    if not busy or wall <= 0:  # a kernel that shows a container nothing shows zeros
        return None
    return max(0.0, busy - (now.own - before.own)) / wall


def together(earlier: Phase, later: Phase) -> dict[str, Any]:
    """The same fields for a phase that was entered again: sums of what adds up, the worst of what does not."""
    return {
        "device_bytes": _both(max, earlier.device_bytes, later.device_bytes),
        "paged_bytes": _both(max, earlier.paged_bytes, later.paged_bytes),
        "allocation_retries": _both(sum, earlier.allocation_retries, later.allocation_retries),
        "energy_joules": _both(sum, earlier.energy_joules, later.energy_joules),
        "conditions": _worse(earlier, later),
    }


def _worse(earlier: Phase, later: Phase) -> Conditions | None:
    """Of the conditions of two stretches of one phase."""
    a, b = earlier.conditions, later.conditions
    if a is None or b is None:
        return None
    seconds = earlier.seconds + later.seconds
    cores = [(one.other_cpu_cores, phase.seconds) for one, phase in ((a, earlier), (b, later))]
    known = [(value, length) for value, length in cores if value is not None]
    reasons = [one.throttle_reasons for one in (a, b) if one.throttle_reasons is not None]
    return Conditions(
        cpu_cores=b.cpu_cores,
        other_cpu_cores=sum(v * s for v, s in known) / seconds if len(known) == 2 and seconds else None,
        throttled_seconds=_both(sum, a.throttled_seconds, b.throttled_seconds),
        other_device_processes=_both(max, a.other_device_processes, b.other_device_processes),
        clock_share=_both(min, a.clock_share, b.clock_share),
        temperature_celsius=_both(max, a.temperature_celsius, b.temperature_celsius),
        throttle_reasons=tuple(dict.fromkeys(r for some in reasons for r in some)) if len(reasons) == 2 else None,
    )


def _both(of: Any, a: N | None, b: N | None) -> Any:
    """Of two values; None where either is unknown."""
    values: Sequence[Any] = (a, b)
    return None if None in values else of(values)


def _less(now: N | None, before: N | None) -> N | None:
    return None if now is None or before is None else now - before


def busy_seconds() -> float | None:
    """Processor seconds that the whole machine has spent on anything, or that its host has taken from it."""
    try:
        first = _STAT.read_text().split("\n", 1)[0].split()
        return sum(int(first[1:][i]) for i in _BUSY) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError, IndexError):
        return None


def _children_seconds() -> float:
    """Processor seconds of the processes that this one has started and that are there: they are part of the run."""
    seconds = 0.0
    with contextlib.suppress(OSError, ValueError, IndexError):
        for pid in Path(f"/proc/self/task/{os.getpid()}/children").read_text().split():
            after_name = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            seconds += (int(after_name[11]) + int(after_name[12])) / os.sysconf("SC_CLK_TCK")  # user and system
    return seconds


def _throttled_seconds() -> float | None:
    """Seconds, summed over the cores, that the limit of this process's control group (version 2) has held it back."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        name = Path("/proc/self/cgroup").read_text().strip().rpartition(":")[2].lstrip("/")
        for line in (_GROUP_STAT / name / "cpu.stat").read_text().splitlines():
            if line.startswith("throttled_usec "):
                return int(line.split()[1]) / 1e6
    return None


def _allocation_retries() -> int:
    import torch

    return int(torch.cuda.memory_stats().get("num_alloc_retries", 0))


def _paged_bytes() -> int:
    """Managed memory that bitsandbytes holds for paged optimizers, wherever the driver keeps its pages."""
    functional = sys.modules.get("bitsandbytes.functional")
    if functional is None:
        return 0
    paged = functional.GlobalPageManager.get_instance().paged_tensors
    return sum(tensor.numel() * tensor.element_size() for tensor in paged)
