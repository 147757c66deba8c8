"""One step of training, followed operation by operation without changing any of them.

It is a step that no rate counts, and the one step that is slower for being looked at; its numbers are the same.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

from harness.measure.live import LiveBytes, gradients_of, tensors_in
from harness.record import StepProfile


class Profiler:
    """Follows the step `step`; every other one passes untouched."""

    def __init__(self, step: int) -> None:
        self.result: StepProfile | None = None
        self._step = step
        self._micro_batches: list[tuple[int, int]] = []
        self._live: LiveBytes | None = None
        self._entered = contextlib.ExitStack()

    def begin(self, step: int, model: Any, optimizer: Any) -> None:
        """An optimizer step begins."""
        if step != self._step:
            return
        self._live = LiveBytes()
        self._live.hold(tensors_in(model), "weights")
        self._live.hold(tensors_in(optimizer.state), "optimizer")
        self._entered.enter_context(self._live)

    def micro_batch(self, inputs: dict[str, Any]) -> None:
        """A micro batch of the step begins; token ids have shape (rows, tokens)."""
        if self._live is not None:
            self._live.hold(inputs.values(), "rest")
            rows, tokens = inputs["input_ids"].shape
            self._micro_batches.append((rows, tokens))

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """The forward pass of a micro batch, up to its loss."""
        with self._live.forward() if self._live is not None else contextlib.nullcontext():
            yield

    def gradients(self, model: Any) -> None:
        """The backward passes are done, and the gradients are there."""
        if self._live is not None:
            self._live.hold(gradients_of(model), "gradients")

    def end(self, optimizer: Any) -> None:
        """The optimizer step is done."""
        if self._live is None:
            return
        self._entered.close()
        live, self._live = self._live, None
        live.hold(tensors_in(optimizer.state), "optimizer")
        self.result = StepProfile(
            step=self._step,
            micro_batches=tuple(self._micro_batches),
            flops=live.flops,
            live_peak_bytes=live.peak_bytes,
            live_bytes={str(kind): num_bytes for kind, num_bytes in live.split().items()},
        )

    def close(self) -> None:
        """Let go of a step that was not finished."""
        self._entered.close()
