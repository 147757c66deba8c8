"""The largest micro batch of a training, computed before its first step on a GPU and discarded.

Memory that will run out does so at once and not after hours.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from typing import Any

import torch

from harness.measure.operations import tensors_in
from harness.train import distributed, failure
from harness.train.batches import Shared, for_model, largest, row_lengths
from harness.train.resume import random_state, set_random_state


class Probing:
    """Mixin that lets transformers' Trainer try its memory. Nothing of a trial is left but what libraries cache."""

    job: Any
    args: Any
    state: Any
    optimizer: Any
    kernels: Any
    profiler: Any
    watcher: Any
    masked: bool
    model_wrapped: Any
    train_dataset: Any
    data_collator: Any
    _aside: Any
    _order: Any
    _shortcuts: Any
    _steps_in_backward: bool
    _has_kernels: bool  # whether the profiled step is computed by other kernels than every other one

    def _probe(self) -> None:
        """Try the largest micro batch, and the profile if it needs memory of its own, which costs no more than itself.

        The profiled step is computed without the kernels that were asked for, and may need more than they leave free.
        """
        if not self.job.cuda or self._steps_in_backward:
            return
        self._try(self.model_wrapped, with_kernels=True)
        if self._has_kernels and self.profiler.is_ahead_of(self.watcher.last_step) and not self._fits_without_kernels():
            self.profiler.give_up("memory runs out without the kernels of the other steps, which hide operations")

    def _fits_without_kernels(self) -> bool:
        """Return whether every rank has the memory for a step without the kernels.

        The model is computed without what adds gradients up over ranks: one that has run out would keep them waiting.
        """
        fits = True
        with self._aside():
            try:
                self._try(self.job.model, with_kernels=False)
            except Exception as error:
                if failure.cause(error) not in failure.MEMORY:
                    raise
                fits = False
            if torch.cuda.is_available():
                torch.cuda.empty_cache()  # what it took is not what training holds
        return all(distributed.all_gather(fits))

    def _try(self, model: Any, with_kernels: bool) -> None:
        """Compute the largest micro batch once.

        Gradients, where they add up, and as many bytes as the optimizer will hold are allocated beside it. Generators,
        buffers and gradients are as before afterwards.
        """
        own, state = self.job.model, random_state()
        buffers = [(buffer, buffer.detach().clone()) for buffer in own.buffers()]
        try:
            held = self._future_optimizer_state()
            if self.args.gradient_accumulation_steps > 1:
                for parameter in (parameter for parameter in own.parameters() if parameter.requires_grad):
                    parameter.grad = torch.zeros_like(parameter)
            self.current_gradient_accumulation_steps = self.args.gradient_accumulation_steps
            self.kernels.turn(on=with_kernels)
            with self._shortcuts():
                batch = for_model(self._largest_micro_batch(), self.masked)
                super().training_step(model, batch, None)  # type: ignore[misc]
            del held
        finally:
            own.zero_grad(set_to_none=True)
            with torch.no_grad():
                for buffer, before in buffers:
                    buffer.copy_(before)
            set_random_state(state)

    def _future_optimizer_state(self) -> torch.Tensor:
        """Return a tensor as large as the optimizer state that the first step will add to the device."""
        method, parts = self.job.method, distributed.world_size() if self.job.sharding != "none" else 1
        trained = [parameter for parameter in self.job.model.parameters() if parameter.requires_grad]
        whole = sum(map(method.resident_optimizer_bytes, trained)) // parts
        there = sum({id(t): t.nbytes for t in tensors_in(self.optimizer.state)}.values())
        return torch.empty(max(0, whole - there), dtype=torch.uint8, device=self.args.device)

    def _largest_micro_batch(self) -> dict[str, torch.Tensor]:
        """Return the micro batch with most positions among those that this rank has still to train on."""
        rows = largest(self._micro_batches_left(), row_lengths(self.job.rows))
        batch: dict[str, torch.Tensor] = self.data_collator([self.train_dataset[row] for row in rows])
        return {name: value.to(self.args.device) for name, value in batch.items()}

    def _micro_batches_left(self) -> Iterator[list[int]]:
        """Yield the rows of each micro batch that this rank has still to train on, in their order."""
        spec, done = self.job.spec, self.watcher.last_step
        sizes = (spec.global_batch_size, spec.micro_batch_size)
        own = Shared(self._order(), distributed.rank(), distributed.world_size(), *sizes)
        number = self.args.gradient_accumulation_steps  # micro batches in a step; the last of an epoch may have fewer
        epochs = map(list, itertools.repeat(own))  # each iteration over an order is its next epoch, from that of `done`
        steps = (epoch[first : first + number] for epoch in epochs for first in range(0, len(epoch), number))
        begun = done % math.ceil(len(self.job.rows) / spec.global_batch_size)
        left = max(1, self.state.max_steps - done)
        return itertools.chain.from_iterable(itertools.islice(steps, begun, begun + left))
