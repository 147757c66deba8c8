"""Seconds and tokens of each optimizer step, without the pauses between them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

from harness.records.record import Training

WARMUP_STEPS = 2  # the first steps allocate, fill caches and pick kernels; the last of them is profiled


class StepMeter:
    """Counts what a training loop did, step by step.

    On a GPU steps are timed by events in its own queue, and counts are kept as tensors: neither makes it wait before
    `settle`, which is for the edges of windows of several steps.

    Args:
        cuda: whether the loop computes on a CUDA device.
    """

    def __init__(self, cuda: bool = False) -> None:
        self._cuda = cuda
        self._seconds: list[float] = []
        self._marks: list[tuple[Any, Any]] = []  # of the steps since the last `settle`
        self._counts: list[list[int]] = []  # per step: real, padded, trained, rows
        self._pending: list[list[tuple[Any, int, Any, Any]]] = [[]]  # the same per micro batch, from there on
        self._mark: Any = 0.0

    def start(self) -> None:
        """Start the clock, or restart it after a pause: the time before counts for no step."""
        self._mark = self._now()

    def micro_batch(self, attention_mask_BT: Any, labels_BT: Any) -> None:  # shape suffixes: batch, tokens
        """Count one micro batch of the step that is under way."""
        real, trained = attention_mask_BT.sum(), (labels_BT != -100).sum()
        rows = attention_mask_BT.any(dim=1).sum()  # rows of padding alone, which fill a process's share, do not count
        self._pending[-1].append((real, attention_mask_BT.numel(), trained, rows))

    def end_step(self) -> None:
        """Mark the end of one optimizer step."""
        now = self._now()
        self._marks.append((self._mark, now))
        self._pending.append([])
        self._mark = now

    def settle(self) -> None:
        """Read the counts that are still on the device; waits for the device."""
        if self._cuda and self._marks:
            self._marks[-1][1].synchronize()
        for start, end in self._marks:
            self._seconds.append(start.elapsed_time(end) / 1000 if self._cuda else end - start)
        for step in self._pending[: len(self._marks)]:
            self._counts.append([sum(int(part[i]) for part in step) for i in range(4)])
        self._pending = self._pending[len(self._marks) :]
        self._marks = []

    def values(self) -> dict[str, Any]:
        """Return the seconds and counts of the settled steps, for `restore`."""
        return {"seconds": list(self._seconds), "counts": list(self._counts)}

    def restore(self, values: dict[str, Any]) -> None:
        """Continue after the steps of an earlier process."""
        self._seconds, self._counts = list(values["seconds"]), list(values["counts"])

    def tokens_per_second(self) -> float | None:
        """Return real tokens per second of the settled steps, without the warm-up; None before there is any."""
        return self._rate([step[0] for step in self._counts])

    def scaled_rate(self, amount: int, step: int) -> float | None:
        """Return an amount of work done in `step` (counted from 1) as a rate over the steps that count, per second.

        It is scaled by the positions that this process alone computed, padding included.
        """
        positions = [counts[1] for counts in self._counts]
        rate = self._rate(positions)
        if rate is None or step > len(positions) or not positions[step - 1]:
            return None
        return rate * amount / positions[step - 1]

    def result(self, history: list[dict[str, float]], validation: list[tuple[int, float]]) -> Training:
        """Return the training as the record keeps it, summed over the processes that train together.

        Args:
            history: one dictionary per step with loss, grad_norm and learning_rate.
            validation: (step, nats per answer token) pairs.
        """
        self.settle()
        counts = over_processes(self._counts)
        real, padded, trained, rows = (tuple(step[i] for step in counts) for i in range(4))
        return Training(
            step_seconds=tuple(self._seconds),
            real_tokens=real,
            padded_tokens=padded,
            trained_tokens=trained,
            sequences=rows,
            losses=tuple(entry["loss"] for entry in history),
            gradient_norms=tuple(entry["grad_norm"] for entry in history),
            learning_rates=tuple(entry["learning_rate"] for entry in history),
            validation=tuple(validation),
            warmup_steps_dropped=WARMUP_STEPS,
            tokens_per_second=self._rate(real),
            train_seconds=sum(self._seconds),
        )

    def _rate(self, per_step: Sequence[int]) -> float | None:
        seconds = sum(self._seconds[WARMUP_STEPS:])
        return sum(per_step[WARMUP_STEPS:]) / seconds if seconds > 0 else None

    def _now(self) -> Any:
        if not self._cuda:
            return time.perf_counter()
        import torch

        event = torch.cuda.Event(enable_timing=True)
        event.record()
        return event


def over_processes(counts: list[list[int]]) -> list[list[int]]:
    """Return sums over the processes that train together, each of which counted its share; equal lengths."""
    import torch

    distributed = torch.distributed
    if not counts or not (distributed.is_available() and distributed.is_initialized()):
        return counts
    device = "cuda" if distributed.get_backend() == "nccl" else "cpu"
    summed = torch.tensor(counts, dtype=torch.long, device=device)
    distributed.all_reduce(summed)
    sums: list[list[int]] = summed.tolist()
    return sums
