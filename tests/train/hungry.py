"""LoRA on a device that has room for so many rows at once: an allocator's error, planted where the batch arrives."""

import dataclasses
from dataclasses import dataclass

import torch

from harness.methods.lora import Lora
from harness.train import distributed


@dataclass(frozen=True, kw_only=True)
class Hungry(Lora):
    """Runs out of memory in training with more than `room` rows in a micro batch, or longer ones than `longest`."""

    room: int
    longest: int = 1_000

    def attach(self, model, setting):
        adapted = super().attach(model, setting)
        adapted.register_forward_pre_hook(self._allocate, with_kwargs=True)
        return adapted

    def quantized(self):
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Lora)}
        return Lora(**fields).quantized()

    def _allocate(self, model, inputs, named):
        rows, tokens = named["input_ids"].shape
        if model.training and (rows > self.room or tokens > self.longest):
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")


@dataclass(frozen=True, kw_only=True)
class HungryOnRank1(Hungry):
    """Runs out of memory on rank 1 alone, in its second step, while rank 0 goes on to wait for it."""

    def _allocate(self, model, inputs, named):
        if model.training and distributed.rank() == 1:
            model.passes = getattr(model, "passes", 0) + 1
            if model.passes > 1:
                super()._allocate(model, inputs, named)
