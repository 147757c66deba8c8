"""The most operations per second that a device does, measured by matrix products, and the share of it that training
reached (model FLOPs utilisation; Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

A peak that is too low would make a share too high, so that it only counts where nothing speaks against it: measured
before and after training, alike both times, with no other process on the processor or the device meanwhile.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable
from typing import Any

import torch

from harness.measure.surroundings import Surroundings
from harness.records.record import DevicePeak, Training

_SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of square matrices: the larger, the nearer to the peak
_LONGEST = 0.012  # seconds that a product may take
_SECONDS = 0.1  # for all products together
_ALIKE = 0.15  # by how much the second measurement may differ from the first
_QUIET = 0.1  # of the machine's cores, that others may keep busy meanwhile


class ImpossibleRateError(RuntimeError):
    """Training seems to have computed more than the device can: a count of operations or a clock is wrong."""


def measured(dtype: torch.dtype, cuda: bool) -> DevicePeak:
    """The best of several square matrix products in `dtype`, or in float32 where that is faster.

    Takes a tenth of a second. Draws its matrices from a generator of its own, so that no number of the run changes.
    """
    around = Surroundings(cuda)
    before = around.look()
    kinds = dict.fromkeys((dtype, torch.float32))
    kind = min(kinds, key=lambda one: _product_seconds(_SIZES[0], one, cuda, 0.0)) if len(kinds) > 1 else dtype
    rate, size = _best(kind, cuda)
    seen = around.since(before)["conditions"]
    if cuda:
        torch.cuda.empty_cache()
    doubt = ""
    if seen.other_device_processes:
        doubt = "another process was on the device while its peak was measured"
    elif not cuda and seen.other_cpu_cores is None:
        doubt = "the kernel does not say whether the processor was free while its peak was measured"
    elif not cuda and seen.other_cpu_cores > _QUIET * (seen.cpu_cores or 1):
        doubt = "other processes kept the processor busy while its peak was measured"
    return DevicePeak(
        flops_per_second=rate,
        dtype=str(kind).removeprefix("torch."),
        source=f"measured: products of {size} x {size} matrices",
        doubt=doubt,
    )


def with_share(training: Training, before: DevicePeak, after: DevicePeak) -> Training:
    """The training's record with the peak of its device, and its share of that where the peak is to be trusted."""
    higher, lower = sorted((before, after), key=lambda one: -one.flops_per_second)
    doubt = before.doubt or after.doubt
    if not doubt and lower.flops_per_second < (1 - _ALIKE) * higher.flops_per_second:
        doubt = "the peak measured before training and the one after it differ: the device was not itself"
    peak = dataclasses.replace(higher, doubt=doubt)
    rate = training.flops_per_second
    share = None if doubt or rate is None else rate / peak.flops_per_second
    return dataclasses.replace(training, device_peak=peak, utilisation=share)


def check(training: Training) -> None:
    """Refuse a share above the whole.

    Raises:
        ImpossibleRateError: names the rate and the peak.
    """
    if training.utilisation is not None and training.utilisation > 1:
        assert training.device_peak is not None, "there is no share without a peak"
        raise ImpossibleRateError(
            f"training seems to have done {training.flops_per_second:.3g} operations per second, "
            f"{training.utilisation:.0%} of the {training.device_peak.flops_per_second:.3g} that the device does at "
            "most: the count of operations or the clock is wrong, and so are the rates of this run"
        )


def _best(dtype: torch.dtype, cuda: bool) -> tuple[float, int]:
    """(operations per second, size) of the fastest product."""
    best, end = (0.0, 0), time.perf_counter() + _SECONDS
    for size in _SIZES:
        try:
            seconds = _product_seconds(size, dtype, cuda, end)
        except (torch.OutOfMemoryError, MemoryError):
            break  # the model has left no room for more
        best = max(best, (2 * size**3 / seconds, size))
        if 8 * seconds > _LONGEST:
            break
    return best


def _product_seconds(size: int, dtype: torch.dtype, cuda: bool, end: float) -> float:
    """Seconds of the fastest of at least three products, more while there is time."""
    device = torch.device("cuda" if cuda else "cpu")
    generator = torch.Generator(device).manual_seed(0)
    a, b = (torch.randn(size, size, generator=generator, device=device).to(dtype) for _ in range(2))
    result = torch.empty_like(a)
    clock = _cuda_seconds if cuda else _seconds

    def product() -> Any:
        return torch.mm(a, b, out=result)

    with torch.no_grad():
        product()  # picks its kernel
        fastest, times = math.inf, 0
        while times < 3 or (time.perf_counter() < end and times < 50):
            fastest, times = min(fastest, clock(product)), times + 1
    return fastest


def _seconds(work: Callable[[], Any]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def _cuda_seconds(work: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    work()
    end.record()
    end.synchronize()
    return float(start.elapsed_time(end)) / 1000
