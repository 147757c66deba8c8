"""One step of training, followed operation by operation without changing any of them.

No rate counts this step. It is the only one that profiling slows down; its results stay the same.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from typing import Any

from harness.measure.operations import Flops, LiveBytes, gradients_of, tensors_in
from harness.records.record import StepProfile

_LOG = logging.getLogger(__name__)


class Profiler:
    """Follows the step `step`; every other one passes untouched.

    Memory is not followed where weights are sharded over processes: the gather is not an operation.
    """

    def __init__(self, step: int, follows_memory: bool = True) -> None:
        self.result: StepProfile | None = None
        self._step, self._follows_memory = step, follows_memory
        self._micro_batches: list[tuple[int, int]] = []
        self._counter: Flops | None = None  # while the step lasts
        self._entered = contextlib.ExitStack()

    @property
    def follows(self) -> bool:
        """Return whether the profiled step is under way."""
        return self._counter is not None

    @property
    def _live(self) -> LiveBytes | None:
        return self._counter if isinstance(self._counter, LiveBytes) else None

    def is_ahead_of(self, step: int) -> bool:
        """Return whether the profiled step comes after a step."""
        return step < self._step

    def give_up(self, reason: str) -> None:
        """Follow no step."""
        _LOG.warning("step %d has no profile: %s", self._step, reason)
        self._step = 0

    def begin(self, step: int, model: Any, optimizer: Any) -> None:
        """Start to follow an optimizer step if it is the profiled one."""
        if step != self._step:
            return
        self._counter = LiveBytes() if self._follows_memory else Flops()
        if self._live is not None:
            self._live.hold(tensors_in(model), "weights")
            self._live.hold(tensors_in(optimizer.state), "optimizer")
        self._entered.enter_context(self._counter)

    def micro_batch(self, inputs: dict[str, Any]) -> None:
        """Record the start of a micro batch; token ids have shape (rows, tokens)."""
        if self._live is not None:
            self._live.hold(inputs.values(), "rest")
        if self._counter is not None:
            rows, tokens = inputs["input_ids"].shape
            self._micro_batches.append((rows, tokens))

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Follow the forward pass of a micro batch, up to its loss."""
        with self._live.forward() if self._live is not None else contextlib.nullcontext():
            yield

    def gradients(self, model: Any) -> None:
        """Record the gradients after the backward passes."""
        if self._live is not None:
            self._live.hold(gradients_of(model), "gradients")

    def end(self, optimizer: Any) -> None:
        """Finish the profile after the optimizer step."""
        if self._counter is None:
            return
        self._entered.close()
        counter, live, self._counter = self._counter, self._live, None
        if counter.failure is not None:  # a count that fails costs the profile, never the run
            _LOG.warning("step %d has no profile: an operation was not counted (%r)", self._step, counter.failure)
            return
        if live is not None:
            live.hold(tensors_in(optimizer.state), "optimizer")
        self.result = StepProfile(
            step=self._step,
            micro_batches=tuple(self._micro_batches),
            flops=counter.flops,
            live_peak_bytes=live.peak_bytes if live else None,
            live_bytes={str(kind): num_bytes for kind, num_bytes in live.split().items()} if live else {},
        )

    def close(self) -> None:
        """Stop following a step that was not finished."""
        self._entered.close()
