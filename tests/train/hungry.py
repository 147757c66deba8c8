"""LoRA on a device that has room for so many rows at once: an allocator's error, planted where the batch arrives."""

from dataclasses import dataclass

import torch

from harness.methods.lora import Lora


@dataclass(frozen=True, kw_only=True)
class Hungry(Lora):
    """Runs out of memory in training with more than `room` rows in a micro batch."""

    room: int

    def attach(self, model, setting):
        adapted = super().attach(model, setting)
        adapted.register_forward_pre_hook(self._allocate, with_kwargs=True)
        return adapted

    def _allocate(self, model, inputs, named):
        if model.training and len(named["input_ids"]) > self.room:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
