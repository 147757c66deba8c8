"""Seconds, peak memory and surroundings of each phase of a run, in the process that runs it."""

from __future__ import annotations

import contextlib
import ctypes
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from harness.measure import control_group
from harness.measure.machine_load import Look, Surroundings, together
from harness.records.record import Phase

_STATUS = Path("/proc/self/status")
_CLEAR_REFS = Path("/proc/self/clear_refs")


@dataclass(frozen=True)
class _Stretch:
    """Part of a phase that no inner phase interrupts: from its start or an inner end to its end or an inner start."""

    name: str
    before: int | None  # resident bytes at the beginning of the phase
    resettable: bool
    look: Look
    start: float
    cached: int | None = None  # bytes that torch's allocator held when the phase went on after an inner one
    has_peaks: bool = True  # whether its peaks are the phase's


class Phases:
    """Measures the time and the peak memory of named phases; peaks are reset at each phase boundary.

    A phase may lie inside another, as a validation lies inside training: the outer one's seconds, peaks and energy are
    those of its own stretches.

    On the CPU a peak is the highest resident set that the kernel saw (VmHWM, which writing 5 to
    `/proc/self/clear_refs` resets: proc(5)); on CUDA it is what torch's allocator handed out and held.

    Args:
        cuda: whether the run computes on a CUDA device. Create the object before this process has a context there, so
            that memory of others is not counted as the run's.
        announce: called with each phase's name when it begins.
    """

    def __init__(self, cuda: bool, announce: Callable[[str], None]) -> None:
        self._cuda = cuda
        self._announce = announce
        self._surroundings = Surroundings(cuda)
        release_freed_memory()  # what is free already must not be counted as held at the start
        self._at_start = resident_bytes()
        self._highest: dict[str, int | None] = {}
        self.done: dict[str, Phase] = {}
        self.latest: Phase | None = None  # the last stretch, not added to those of its name before
        self._current: _Stretch | None = None

    @contextlib.contextmanager
    def __call__(self, name: str) -> Iterator[None]:
        """Measure one phase; a phase that is entered again adds its seconds and keeps the higher peak."""
        outer = self._current
        if outer is not None:
            self._end(outer, wait=True)
        self._current = self._begin(name, wait=True)
        wait = False  # during an exception: a device that no longer answers would hide the reason
        try:
            yield
            wait = True
        finally:
            self._end(self._current, wait)
            self._current = None if outer is None else self._begin(outer.name, wait, outer)

    @contextlib.contextmanager
    def aside(self) -> Iterator[None]:
        """Leave the memory of what is done within out of the peaks of the phase; its seconds and energy count."""
        outer = self._current
        if outer is None:
            yield
            return
        self._end(outer, wait=True)
        self._current = replace(self._begin(outer.name, True, outer), has_peaks=False)
        yield
        self._end(self._current, wait=True)
        self._current = self._begin(outer.name, True, outer)

    def sample(self) -> None:
        """Sample the clocks of the device while it works; call it between steps, before anything waits for it."""
        self._surroundings.sample()

    def _begin(self, name: str, wait: bool, again: _Stretch | None = None) -> _Stretch:
        """Begin a stretch of a phase, `again` after its last one.

        A phase to which an exception returns is not announced: the last one announced is where the run ended.
        """
        if wait:
            self._announce(name)
        release_freed_memory()
        before = resident_bytes() if again is None else again.before
        resettable = self._reset_peaks(wait)
        cached = self._most_reserved() if self._cuda and again is not None else None
        return _Stretch(name, before, resettable, self._surroundings.look(), time.perf_counter(), cached)

    def _end(self, stretch: _Stretch, wait: bool) -> None:
        if wait:
            self._synchronize()
        self._note(stretch, time.perf_counter() - stretch.start)

    def add_energy(self, name: str, joules: Sequence[float | None]) -> None:
        """Set the energy of a phase to the sum over the devices of all processes of the run; None if any is unknown."""
        numbers = [number for number in joules if number is not None]
        total = sum(numbers) if numbers and len(numbers) == len(joules) else None
        self.done[name] = replace(self.done[name], energy_joules=total)

    def headline_bytes(self) -> int | None:
        """Return the highest peak of loading and training, weights included, imports not.

        On the CPU it is the excess over the resident set before loading. None where no peak could be taken.
        """
        peaks = [self._highest[name] for name in ("load", "train") if name in self._highest]
        numbers = [peak for peak in peaks if peak is not None]
        if len(numbers) < len(peaks) or not numbers:
            return None
        return max(numbers) if self._cuda else max(numbers) - (self._at_start or 0)

    def required_bytes(self) -> int | None:
        """Return the GPU memory that loading and training need: the most that torch's allocator held, plus the context.

        The context is left out where it is unknown. None on a CPU.
        """
        phases = [self.done[name] for name in ("load", "train") if name in self.done]
        reserved = [phase.peak_reserved_bytes for phase in phases if phase.peak_reserved_bytes is not None]
        context = [phase.context_bytes for phase in phases if phase.context_bytes is not None]
        return max(reserved) + max(context, default=0) if reserved else None

    def _note(self, stretch: _Stretch, seconds: float) -> None:
        name, before = stretch.name, stretch.before
        if self._cuda:
            import torch

            gpus = range(torch.cuda.device_count())  # a model may lie on several, and nothing of ours on the others
            peak: int | None = sum(map(torch.cuda.max_memory_allocated, gpus))
            reserved: int | None = self._most_reserved()
            if reserved == stretch.cached:  # all of it may be what the inner phase has left in the cache
                reserved = self.done[name].peak_reserved_bytes
            absolute = peak
        else:
            absolute, reserved = (_status_bytes("VmHWM") if stretch.resettable else None), None
            peak = None if absolute is None or before is None else max(0, absolute - before)
        if not stretch.has_peaks:
            so_far = self.done[name]
            peak, reserved, absolute = so_far.peak_memory_bytes, so_far.peak_reserved_bytes, self._highest[name]
        this = Phase(
            seconds=seconds,
            peak_memory_bytes=peak,
            peak_reserved_bytes=reserved,
            resident_bytes=before,
            **self._surroundings.since(stretch.look),
        )
        self.latest = this
        earlier = self.done.get(name)
        if name in self._highest:  # a phase may have been taken over from another process, with its own
            absolute = _higher(absolute, self._highest[name])
        if earlier is not None:
            this = replace(
                this,
                seconds=seconds + earlier.seconds,
                peak_memory_bytes=_higher(peak, earlier.peak_memory_bytes),
                peak_reserved_bytes=_higher(reserved, earlier.peak_reserved_bytes),
                **together(earlier, this),
            )
        self._highest[name] = absolute
        self.done[name] = this

    def _most_reserved(self) -> int:
        """Return the most bytes that torch's allocator has held since peaks were last reset, of all GPUs together."""
        import torch

        return int(sum(map(torch.cuda.max_memory_reserved, range(torch.cuda.device_count()))))

    def _reset_peaks(self, wait: bool) -> bool:
        if wait:
            self._synchronize()
        if self._cuda:
            import torch

            for gpu in range(torch.cuda.device_count()):
                torch.cuda.reset_peak_memory_stats(gpu)
            return True
        try:
            _CLEAR_REFS.write_text("5")
        except OSError:
            return False
        return True

    def _synchronize(self) -> None:
        if self._cuda:
            import torch

            torch.cuda.synchronize()


def resident_bytes() -> int | None:
    """Return the process's current resident set in bytes; None where the kernel does not report it."""
    return _status_bytes("VmRSS")


def release_freed_memory() -> None:
    """Give freed memory that the C allocator keeps back to the system, so that it does not count in the next peak."""
    import gc

    gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL("libc.so.6").malloc_trim(0)


def _higher(a: int | None, b: int | None) -> int | None:
    """Return the higher of two peaks; None where either is unknown."""
    return None if a is None or b is None else max(a, b)


def _status_bytes(field: str) -> int | None:
    try:
        lines = _STATUS.read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return None


def available_bytes() -> int | None:
    """Return the bytes that a new process could take without pushing others out.

    They are the kernel's estimate plus free swap, or what the control group's limit leaves if that is less. None
    where the kernel gives no estimate.
    """
    table = control_group.numbers(Path("/proc/meminfo"))
    if "MemAvailable" not in table:
        return None
    left = (table["MemAvailable"] + table.get("SwapFree", 0)) * 1024
    group = control_group.memory_left()
    return left if group is None else min(left, group)
