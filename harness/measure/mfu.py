"""The most operations per second that a device does, measured by matrix products, and the share of it that training
reached (model FLOPs utilization; Chowdhery et al. 2022, arXiv 2204.02311, appendix B).

A peak that is too low would make a share too high, so that it only counts where nothing speaks against it: measured
before and after training, alike both times, with no other process on the processor or the device meanwhile.
"""

from __future__ import annotations

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

import torch

from harness.measure.machine_load import Surroundings
from harness.records.record import DevicePeak, Training

_SIZES = (256, 512, 1024, 2048, 4096, 8192)  # of square matrices; larger ones come nearer to the peak
_LONGEST = 0.012  # seconds that a product may take
_SECONDS = 0.1  # for all products together
_ALIKE = 0.15  # largest relative difference of the two measurements
_QUIET = 0.1  # largest share of the machine's cores that others may keep busy meanwhile


def measured(dtype: torch.dtype, cuda: bool, tf32: bool = False) -> DevicePeak | None:
    """Return the best of several square matrix products; None where none of them could be computed.

    They are in `dtype`, and on a CPU in float32 where that is faster: it may have no units for 16 bits. With `tf32`
    those in float32 round their factors, as the steps that they are compared with do: by other units, which are several
    times as fast. Takes a tenth of a second. Draws its matrices from a generator of its own, so that no number of the
    run changes.
    """
    around = Surroundings(cuda)
    before = around.look()
    kind = dtype if cuda else _faster_on_cpu(dtype)
    with _rounded(tf32):
        rate, size = _best(kind, cuda)
    seen = around.since(before)["conditions"]
    if cuda:
        torch.cuda.empty_cache()
    if not rate:
        return None
    doubt = ""
    if seen.other_device_processes:
        doubt = "another process was on the device while its peak was measured"
    elif not cuda and seen.other_cpu_cores is None:
        doubt = "the kernel does not say whether the processor was free while its peak was measured"
    elif not cuda and seen.other_cpu_cores > _QUIET * (seen.cpu_cores or 1):
        doubt = "other processes kept the processor busy while its peak was measured"
    return DevicePeak(
        flops_per_second=rate,
        dtype="tf32" if tf32 else str(kind).removeprefix("torch."),
        source=f"measured: products of {size} x {size} matrices",
        doubt=doubt,
    )


def with_share(training: Training, before: DevicePeak | None, after: DevicePeak | None) -> Training:
    """Add the peak of its device to a training, and its share of that where the peak is to be trusted.

    A share above 1 is dropped, since a clock or a count of operations is wrong; the peak's `doubt` says so.
    """
    if before is None or after is None:
        return training
    higher, lower = sorted((before, after), key=lambda peak: -peak.flops_per_second)
    doubt = before.doubt or after.doubt
    if not doubt and lower.flops_per_second < (1 - _ALIKE) * higher.flops_per_second:
        doubt = f"the peaks before and after training differ by more than {100 * _ALIKE:.0f} %, as on a busy device"
    rate = training.flops_per_second
    share = None if doubt or rate is None else rate / higher.flops_per_second
    if share is not None and share > 1:
        share, doubt = (
            None,
            "training seems to have computed more than this: the count of operations or a clock is wrong",
        )
    return dataclasses.replace(training, device_peak=dataclasses.replace(higher, doubt=doubt), mfu=share)


@contextlib.contextmanager
def _rounded(tf32: bool) -> Iterator[None]:
    """Let products in float32 round their factors if `tf32`."""
    usual = torch.get_float32_matmul_precision()
    if tf32:
        torch.set_float32_matmul_precision("high")
    try:
        yield
    finally:
        torch.set_float32_matmul_precision(usual)


def _faster_on_cpu(dtype: torch.dtype) -> torch.dtype:
    """Return `dtype`, or float32 where a small product is faster in it."""
    kinds = dict.fromkeys((dtype, torch.float32))
    return min(kinds, key=lambda kind: _product_seconds(_SIZES[0], kind, False, 0.0)) if len(kinds) > 1 else dtype


def _best(dtype: torch.dtype, cuda: bool) -> tuple[float, int]:
    """Return (operations per second, size) of the fastest product; (0.0, 0) where not even the smallest is computed."""
    best, end = (0.0, 0), time.perf_counter() + _SECONDS
    for size in _SIZES:
        seconds = _product_seconds(size, dtype, cuda, end)
        best = max(best, (2 * size**3 / seconds, size))
        if 8 * seconds > _LONGEST:
            break
    return best


def _product_seconds(size: int, dtype: torch.dtype, cuda: bool, end: float) -> float:
    """Return the seconds of the fastest of at least three products, more while there is time.

    Infinite where it cannot be computed: the model may have left no room for it.
    """
    try:
        return _fastest(size, dtype, cuda, end)
    except (RuntimeError, MemoryError):
        return math.inf


def _fastest(size: int, dtype: torch.dtype, cuda: bool, end: float) -> float:
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
