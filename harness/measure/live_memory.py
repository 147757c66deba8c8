"""Bytes of the tensors that are alive and what is computed, operation by operation: on real tensors, or on fake ones.

Storages are followed: a view costs nothing, tied weights count once, and a storage is gone when its last tensor is.
Workspaces that a kernel takes and gives back, and the allocator's rounding, are not seen.

The same follower serves a step of training and the plan of one, so that the two can be compared byte by byte:

    live = LiveBytes()
    live.hold(tensors_in(model), "weights")
    live.hold(tensors_in(optimizer.state), "optimizer")
    with live:
        with live.forward():
            loss = ...
        loss.backward()
        live.hold(gradients_of(model), "gradients")
        optimizer.step()
    live.peak_bytes, live.split(), live.flops
"""

from __future__ import annotations

import contextlib
import weakref
from collections.abc import Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch.utils._pytree import tree_leaves

from harness.measure.flops import Flops

Kind = Literal["weights", "gradients", "optimizer", "activations", "rest"]
KINDS: tuple[Kind, ...] = ("weights", "gradients", "optimizer", "activations", "rest")
_DEPTH = 6  # optimizer.state -> state -> projector -> list -> tensor, and some to spare


class _Life:
    """A storage: its bytes, what it is for, and when it came and went, in operations."""

    __slots__ = ("born", "died", "kind", "num_bytes", "reference")

    def __init__(self, num_bytes: int, kind: Kind, born: int) -> None:
        self.num_bytes, self.kind, self.born = num_bytes, kind, born
        self.died: int | None = None
        self.reference: Any = None


class LiveBytes(Flops):
    """Sums the storages that are alive while it is entered, and remembers their peak and what it consisted of.

    `activations` are made within `forward`. `rest` is made elsewhere and not held under another kind: inputs, gradients
    of activations, recomputation by checkpointing, the optimizer's temporaries.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live_bytes = 0
        self.peak_bytes = 0
        self._known: dict[int, _Life] = {}  # by the address of the storage
        self._lives: list[_Life] = []
        self._now = 0
        self._peak_at = 0
        self._kind: Kind = "rest"

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation, count it and look at what it returns."""
        result = super().__torch_dispatch__(func, types, args, kwargs)
        self._now += 1
        for leaf in (result,) if isinstance(result, torch.Tensor) else tree_leaves(result):
            if isinstance(leaf, torch.Tensor):
                self._meet(leaf)
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_at = self.live_bytes, self._now
        return result

    def hold(self, tensors: Iterable[torch.Tensor], kind: Kind) -> None:
        """Count tensors that exist already, or set the kind of tensors that are counted."""
        for tensor in tensors:
            life = self._meet(tensor)
            if life is not None:
                life.kind = kind
        if self.live_bytes > self.peak_bytes:
            self.peak_bytes, self._peak_at = self.live_bytes, self._now

    @contextlib.contextmanager
    def forward(self) -> Iterator[None]:
        """Count the tensors made within as activations, unless `hold` gives them another kind."""
        self._kind = "activations"
        try:
            yield
        finally:
            self._kind = "rest"

    def split(self) -> dict[Kind, int]:
        """Return the bytes at the peak by kind; their sum is `peak_bytes`."""
        shares = dict.fromkeys(KINDS, 0)
        for life in self._lives:
            if life.born <= self._peak_at and (life.died is None or life.died >= self._peak_at):
                shares[life.kind] += life.num_bytes
        return shares

    def _meet(self, tensor: torch.Tensor) -> _Life | None:
        if tensor.layout is not torch.strided:
            return None
        storage = tensor.untyped_storage()
        key = storage._cdata
        life = self._known.get(key)
        if life is None:
            life = self._begin(storage.nbytes(), self._kind)
            life.reference = weakref.ref(storage, partial(self._gone, key))
            self._known[key] = life
        return life

    def _begin(self, num_bytes: int, kind: Kind) -> _Life:
        life = _Life(num_bytes, kind, self._now)
        self._lives.append(life)
        self.live_bytes += num_bytes
        return life

    def _end(self, life: _Life) -> None:
        life.died = self._now
        self.live_bytes -= life.num_bytes

    def _gone(self, key: int, _: Any) -> None:
        self._end(self._known.pop(key))


def tensors_in(value: Any) -> list[torch.Tensor]:
    """Return every tensor that a model, an optimizer's state or a structure of them holds.

    Looks into modules (parameters, buffers, and other attributes such as the constants of a quantized weight),
    dictionaries, lists and plain objects.
    """
    found: list[torch.Tensor] = []
    _collect(value, found, set(), _DEPTH)
    return found


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the gradients that exist."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _collect(value: Any, found: list[torch.Tensor], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0 or isinstance(value, str | bytes | int | float | type):
        return
    if isinstance(value, torch.Tensor):
        seen.add(id(value))
        found.append(value)
        parts: Iterable[Any] = vars(value.quant_state).values() if hasattr(value, "quant_state") else ()
    elif isinstance(value, torch.nn.Module):
        parts = [part for module in value.modules() for part in _tensors_of(module)]
    elif isinstance(value, dict):
        parts = value.values()  # an optimizer's keys are the weights
    elif isinstance(value, list | tuple | set):
        parts = value
    elif hasattr(value, "__dict__") and not callable(value):
        seen.add(id(value))
        parts = vars(value).values()
    else:
        return
    for part in parts:
        _collect(part, found, seen, depth - 1)


def _tensors_of(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield a module's parameters and buffers, and its tensors that are neither."""
    yield from (tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None)
    yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
