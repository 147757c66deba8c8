"""FLOPs, and bytes of the tensors that are alive, operation by operation: on real tensors, or on fake ones.

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
import functools
import math
import weakref
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any, Literal

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


def _gemm_4bit(inputs: Any, packed: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    """Return the operations of a product whose packed weight does not show its (outputs, inputs)."""
    return int(2 * (inputs.numel() // inputs.shape[-1]) * math.prod(weight_shape))


def _int8_mm(inputs: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Return the operations of inputs (..., k) times weight (n, k) transposed."""
    return int(2 * inputs.numel() * weight.shape[0])


def _int8_mixed_mm(inputs: Any, quantized: Any, weight: Any, *_: Any, **__: Any) -> int:
    """Return the operations of the 8-bit product; the few outlier columns beside it are an ordinary product."""
    return _int8_mm(quantized, weight)


def _attention(query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the operations of attention; query is (rows, heads, queries, size), key and value may have fewer heads.

    Kernels for grouped-query attention take the key heads as they are, which torch's own formula refuses up to 2.11.
    """
    rows, heads, queries, size = query.shape
    return int(2 * rows * heads * queries * key.shape[2] * (size + value.shape[3]))


def _attention_backward(gradient: Any, query: Any, key: Any, value: Any, *_: Any, **__: Any) -> int:
    """Return the operations of its backward pass: scores again, and gradients of scores, value, query and key."""
    rows, heads, queries, size = query.shape
    return int(2 * rows * heads * queries * key.shape[2] * (3 * size + 2 * value.shape[3]))


Formula = Callable[..., int]  # of an operation's arguments and `out_val`, its result

_KERNELS = ("flash_attention", "flash_attention_for_cpu", "efficient_attention", "cudnn_attention")
_ATEN: dict[str, Formula] = {f"_scaled_dot_product_{kernel}": _attention for kernel in _KERNELS}
_ATEN |= {f"_scaled_dot_product_{kernel}_backward": _attention_backward for kernel in _KERNELS}
_BITSANDBYTES: dict[str, Formula] = {
    "gemm_4bit": _gemm_4bit,
    "int8_linear_matmul": _int8_mm,
    "int8_scaled_mm": _int8_mm,
    "int8_mixed_scaled_mm": _int8_mixed_mm,
}
# names in a namespace of torch.ops: they go before torch's registry
_OWN: dict[str, dict[str, Formula]] = {"aten": _ATEN, "bitsandbytes": _BITSANDBYTES}


class Flops(TorchDispatchMode):  # type: ignore[misc]
    """Sums the operations that are computed while it is entered, in `flops`.

    An operation whose formula fails is computed all the same: `failure` keeps the first error, and the sum is void.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self.failure: Exception | None = None
        self._times = 1  # how many operations each one stands for

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Return False to skip torch's guard against its compiler, which takes longer than counting an operation."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = formula(func)
        if count is not None and self.failure is None:
            try:
                self.flops += self._times * count(*args, **kwargs, out_val=result)
            except Exception as error:  # formulas are torch's as well: no count may end a run
                self.failure = error
        return result


@functools.cache
def formula(func: Any) -> Any:
    """Return the function that counts an operation from its arguments; None where there is nothing to count."""
    packet = func._overloadpacket if isinstance(func, torch._ops.OpOverload) else func
    namespace, _, name = str(getattr(packet, "_qualified_op_name", "")).partition("::")
    own = _OWN.get(namespace, {}).get(name)
    return flop_registry.get(packet) if own is None else own


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
    tensors: list[torch.Tensor] = []
    _collect(value, tensors, set(), _DEPTH)
    return tensors


def gradients_of(model: torch.nn.Module) -> list[torch.Tensor]:
    """Return the gradients that exist."""
    return [parameter.grad for parameter in model.parameters() if parameter.grad is not None]


def _collect(value: Any, tensors: list[torch.Tensor], seen: set[int], depth: int) -> None:
    if id(value) in seen or depth < 0 or isinstance(value, str | bytes | int | float | type):
        return
    if isinstance(value, torch.Tensor):
        seen.add(id(value))
        tensors.append(value)
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
        _collect(part, tensors, seen, depth - 1)


def _tensors_of(module: torch.nn.Module) -> Iterator[torch.Tensor]:
    """Yield a module's parameters and buffers, and its tensors that are neither."""
    yield from (tensor for tensor in (*module._parameters.values(), *module._buffers.values()) if tensor is not None)
    yield from (value for value in vars(module).values() if isinstance(value, torch.Tensor))
