"""Floating point operations of matrix products, convolutions and attention: the formulas of torch's FlopCounterMode.

That class also hooks every module, which keeps parts of the graph alive. One multiplication and one addition are two
operations. A causal mask is not subtracted, as torch does not.
"""

from __future__ import annotations

import functools
import math
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import flop_registry, sdpa_backward_flop, sdpa_flop


def _gemm_4bit(inputs: Any, packed: Any, weight_shape: Any, *_: Any, **__: Any) -> int:
    """A product with a weight whose packed form says nothing of its (outputs, inputs)."""
    return int(2 * (inputs.numel() // inputs.shape[-1]) * math.prod(weight_shape))


# names in a namespace of torch.ops; what torch's registry leaves out
_ATEN = {
    "_scaled_dot_product_flash_attention_for_cpu": sdpa_flop,
    "_scaled_dot_product_flash_attention_for_cpu_backward": sdpa_backward_flop,
}
_MORE = {"aten": _ATEN, "bitsandbytes": {"gemm_4bit": _gemm_4bit}}


class Flops(TorchDispatchMode):  # type: ignore[misc]
    """Sums the operations that are computed while it is entered, in `flops`."""

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0
        self._times = 1  # how many operations each one stands for

    @classmethod
    def _should_skip_dynamo(cls) -> bool:
        """Without torch's guard against its compiler around every operation, which takes longer than counting it."""
        return False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run an operation and count it."""
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        count = formula(func)
        if count is not None:
            self.flops += self._times * count(*args, **kwargs, out_val=result)
        return result


@functools.cache
def formula(func: Any) -> Any:
    """What computes an operation's count from its arguments; None where there is nothing to count."""
    packet = func._overloadpacket if isinstance(func, torch._ops.OpOverload) else func
    known = flop_registry.get(packet)
    if known is not None:
        return known
    namespace, _, name = str(getattr(packet, "_qualified_op_name", "")).partition("::")
    return _MORE.get(namespace, {}).get(name)
