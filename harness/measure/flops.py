"""Floating point operations of matrix products, convolutions and attention: the formulas of torch's FlopCounterMode.

That class also hooks every module, which keeps parts of the graph alive. One multiplication and one addition are two
operations. A causal mask is not subtracted, as torch does not.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
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
