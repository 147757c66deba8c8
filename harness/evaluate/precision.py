"""The precision of an evaluation, independent of the precision of training.

In bfloat16 a layer's output is rounded to 8 significant bits before an adapter's output is added to it, and the sum is
rounded again: where the update is below half a unit in the last place, the sum is the output without the update. The
same holds for an update merged into bfloat16 weights. The part that is lost depends on the method and on the size of
the update, so that it biases a comparison. In float32 the threshold is 65,536 times lower.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from harness.train import gpu_attention

_NARROW = (torch.bfloat16, torch.float16)
# operations that refuse operands of two dtypes; elementwise ones promote by themselves
_PRODUCTS = frozenset({
    functional.linear, functional.scaled_dot_product_attention, functional.layer_norm, functional.rms_norm,
    functional.group_norm, functional.conv1d, functional.bilinear, torch.matmul, torch.mm, torch.bmm, torch.addmm,
    torch.baddbmm, torch.einsum, torch.Tensor.matmul, torch.Tensor.mm, torch.Tensor.bmm, torch.Tensor.addmm,
    torch.Tensor.baddbmm, torch.Tensor.__matmul__, torch.Tensor.__rmatmul__,
})  # fmt: skip


@contextlib.contextmanager
def computing(model: Any, precision: str, room: int = 0) -> Iterator[None]:
    """Compute the forward passes of `model` within this context in `precision`.

    "fp32" converts each weight to float32, which is exact. Quantized weights are dequantized.
    "bf16" is torch's autocast.

    Args:
        model: a causal language model, or an adapter around one.
        precision: "fp32" or "bf16".
        room: bytes that may be taken for float32 copies of weights held in fewer bits. A weight without a copy is
            converted in each forward pass: the result is the same to the bit, in more time and less memory.
    """
    device = model.get_input_embeddings().weight.device.type
    if precision == "bf16":
        with torch.autocast(device, torch.bfloat16):
            yield
        return
    copies = _Copies(model, room)
    attention = gpu_attention.keys_for_every_head() if device == "cuda" else contextlib.nullcontext()
    try:
        with torch.autocast(device, enabled=False), copies.conversion(), attention:
            yield
    finally:
        copies.release()


class _Copies:
    """Float32 copies of a model's 16-bit and quantized weights, which they replace until `release`."""

    def __init__(self, model: Any, room: int) -> None:
        self._undo: list[Callable[[], None]] = []
        self._made: dict[int, torch.Tensor] = {}  # by the identity of the weight: tied ones share their copy
        self._room = room
        self._all_held = True
        # transformers and PEFT read the dtype of the model from its embeddings, which therefore always have a copy
        embeddings = list(model.get_input_embeddings().modules())
        for module in (*embeddings, *model.modules()):
            if isinstance(module, torch.nn.Linear) and not module.weight.is_floating_point():
                self._dequantize(module)
            else:
                self._widen(module, always=module in embeddings)

    def conversion(self) -> contextlib.AbstractContextManager[Any]:
        """Convert weights without a copy while they are used."""
        return contextlib.nullcontext() if self._all_held else _Promoting()

    def release(self) -> None:
        """Put the original weights back."""
        for undo in reversed(self._undo):
            undo()

    def _widen(self, module: torch.nn.Module, always: bool) -> None:
        for tensors in (module._parameters, module._buffers):
            for name, tensor in tensors.items():
                if tensor is None or tensor.dtype not in _NARROW:
                    continue
                copy = self._copy(tensor, always)
                if copy is None:
                    self._all_held = False
                    continue
                self._undo.append(partial(tensors.update, {name: tensor}))
                tensors[name] = copy

    def _copy(self, tensor: torch.Tensor, always: bool) -> torch.Tensor | None:
        if id(tensor) in self._made:
            return self._made[id(tensor)]
        size = 4 * tensor.numel()
        if type(tensor) not in (torch.nn.Parameter, torch.Tensor) or (size > self._room and not always):
            return None
        self._room -= size
        copy = tensor.detach().float()
        if isinstance(tensor, torch.nn.Parameter):
            copy = torch.nn.Parameter(copy, requires_grad=False)
        self._made[id(tensor)] = copy
        return copy

    def _dequantize(self, layer: torch.nn.Linear) -> None:
        """Make a quantized layer multiply by its dequantized weight, which is stored or computed again in each pass."""
        own = vars(layer).get("forward")  # of a model that is spread over several devices
        if isinstance(own, _Dequantized):
            return
        size = 4 * layer.in_features * layer.out_features
        if size <= self._room:
            self._room -= size
            weight = torch.nn.Parameter(_dequantized(layer), requires_grad=False)
            self._undo.append(partial(layer._parameters.update, weight=layer.weight))
            layer._parameters["weight"] = weight
        layer.forward = _Dequantized(layer)
        self._undo.append(lambda: vars(layer).pop("forward") if own is None else setattr(layer, "forward", own))


class _Dequantized:
    """The forward pass of a quantized linear layer in float32."""

    def __init__(self, layer: torch.nn.Linear) -> None:
        self._layer = layer

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        weight, bias = self._layer.weight, self._layer.bias
        weight = weight if weight.is_floating_point() else _dequantized(self._layer)
        return functional.linear(x.float(), weight, None if bias is None else bias.float())


def _dequantized(layer: torch.nn.Linear) -> torch.Tensor:
    from peft.utils.integrations import dequantize_module_weight

    packed = layer.weight
    with torch.no_grad():
        weight: torch.Tensor = dequantize_module_weight(layer).detach().float()
    layer._parameters["weight"] = packed  # PEFT replaces it by one without what bitsandbytes keeps beside it
    return weight


class _Promoting(TorchFunctionMode):  # type: ignore[misc]
    """Converts the 16-bit operands of products to float32, and rows of a 16-bit embedding after the lookup."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is functional.embedding:
            return _wide(func(*args, **kwargs))
        if func in _PRODUCTS:
            return func(*map(_wide, args), **{name: _wide(value) for name, value in kwargs.items()})
        return func(*args, **kwargs)


def _wide(value: Any) -> Any:
    return value.float() if isinstance(value, torch.Tensor) and value.dtype in _NARROW else value
