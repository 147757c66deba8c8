"""Models of fake tensors, which have shapes, dtypes and a device but no data. The training code runs on them unchanged.

The model and its adapter are built on the meta device, since PEFT cannot attach under a FakeTensorMode. Then every
parameter and buffer is replaced by a fake tensor. If all layers are equal, three of them remain: the first, one that
represents all layers between, and the last. The tensors of the other layers are counted but not computed with.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import masking_utils
from trl.kernels import chunked_logprob

from harness.measure.operations import tensors_in

_KEPT = 3  # layers that are computed with, if all are equal


@dataclass(frozen=True)
class FakeModel:
    """Model of fake tensors for the training loop, with a count of the layers that were left out.

    `repeats`: number of left-out layers that the middle layer represents, 0 if all layers are present.
    `unseen_bytes`: bytes of the frozen weights of those layers.
    `unseen`: a trained parameter of the middle layer -> the same parameter of each left-out layer.
    """

    model: Any
    mode: FakeTensorMode
    layers: Any  # the torch.nn.ModuleList of the decoder layers that are computed with
    repeats: int = 0
    unseen_bytes: int = 0
    unseen: dict[torch.nn.Parameter, list[torch.nn.Parameter]] = field(default_factory=dict)

    @property
    def unseen_trained(self) -> list[torch.nn.Parameter]:
        """Return the trained parameters of the layers that were left out."""
        return [parameter for several in self.unseen.values() for parameter in several]

    def trained(self) -> list[torch.nn.Parameter]:
        """Return every trained parameter of the whole model."""
        seen = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [*seen, *self.unseen_trained]


def quantized(model: Any, options: dict[str, Any]) -> Any:
    """Return the meta model with its layers replaced as the loader replaces them for a method's `load_options`."""
    configuration = options.get("quantization_config")
    if configuration is None:
        return model.to(options["dtype"])
    from bitsandbytes import functional
    from transformers.quantizers import AutoHfQuantizer

    quantizer = AutoHfQuantizer.from_config(configuration)
    model = model.to(options["dtype"])
    quantizer.preprocess_model(model, device_map=None)
    quantizer.postprocess_model(model)
    model.hf_quantizer = quantizer
    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())  # needs real values
    return model.requires_grad_(False)


def fake(model: Any, shorten: bool) -> FakeModel:
    """Replace every tensor of a model on the meta device by a fake tensor on the CPU. Tied tensors stay tied.

    `shorten`: leave out all but three of the layers, if all are equal.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    layers, dropped = _shortened(model) if shorten else (decoder_layers(model), [])
    parameters: dict[int, Any] = {}
    with mode:
        for module in model.modules():
            _replace(module, parameters)
        trained = [p for p in layers[1].parameters() if p.requires_grad] if dropped else []
        unseen = {name: [torch.nn.Parameter(_buffer(name)) for _ in dropped] for name in trained}
    frozen = _own_frozen_bytes(layers) if dropped else 0
    return FakeModel(model, mode, layers, len(dropped), frozen * len(dropped), unseen)


def _replace(module: Any, fakes: dict[int, Any]) -> None:
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is None:
                continue
            if id(tensor) not in fakes:
                fakes[id(tensor)] = (
                    _parameter(tensor, module) if isinstance(tensor, torch.nn.Parameter) else _buffer(tensor)
                )
            table[name] = fakes[id(tensor)]


def _buffer(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _parameter(parameter: torch.nn.Parameter, owner: Any) -> torch.nn.Parameter:
    """Return the fake of a parameter. A bitsandbytes parameter becomes its quantized form, as on a device.

    The parameter classes of bitsandbytes cannot wrap a fake tensor, and its layers do not check for them.
    """
    kind = type(parameter).__name__
    if kind == "Params4bit":
        return _in_four_bits(torch.empty(parameter.shape, dtype=owner.compute_dtype), vars(parameter))
    result = torch.nn.Parameter(_buffer(parameter), requires_grad=parameter.requires_grad)
    if kind == "Int8Params":
        result = torch.nn.Parameter(torch.empty(parameter.shape, dtype=torch.int8), requires_grad=False)
        result.CB, result.SCB = result.data, torch.empty(parameter.shape[0])
    return result


def _in_four_bits(data: torch.Tensor, settings: dict[str, Any]) -> torch.nn.Parameter:
    """Quantize shapes with bitsandbytes: return the packed weights with their constants."""
    from bitsandbytes.functional import quantize_4bit

    options = ("blocksize", "compress_statistics", "quant_type", "quant_storage")
    packed, state = quantize_4bit(data, **{option: settings[option] for option in options})
    result = torch.nn.Parameter(packed, requires_grad=False)
    result.quant_state = state
    return result


def as_if_not_traced() -> Any:
    """Return a context in which transformers takes the same code paths as in training.

    Without it, transformers mistakes fake tensors for an export. It then keeps an attention mask that it drops in
    training if no row is padded.
    """
    return mock.patch.object(masking_utils, "is_tracing", return_value=False)


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Make fake tensors on the CPU take the memory that they would take on a GPU.

    On a GPU, TRL's output head reduces its tiles in place with Triton. Its CPU functions hold several float32 copies
    of a tile. PEFT does not cast the inputs of quantized layers if CUDA autocast is on.
    """

    def forward(tile: torch.Tensor, *_: Any, **__: Any) -> None:
        """Do nothing: the statistics go into existing tensors."""

    def backward(tile: torch.Tensor, *_: Any, **__: Any) -> None:
        tile.zero_()

    was_on = torch.is_autocast_enabled("cuda")
    torch.set_autocast_enabled("cuda", True)
    try:
        with mock.patch.multiple(chunked_logprob, _forward_tile=forward, _backward_tile=backward):
            yield
    finally:
        torch.set_autocast_enabled("cuda", was_on)


def decoder_layers(model: Any) -> Any:
    """Return a model's ModuleList of layers: the first of the configured length, None if there is none."""
    number = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == number]
    return lists[0] if lists else None


def _shortened(model: Any) -> tuple[Any, list[Any]]:
    """Return (layers to compute with, layers left out). If all layers are equal, three remain; else all remain."""
    layers = decoder_layers(model)
    if layers is None or len(layers) <= _KEPT or len({_signature(layer) for layer in layers}) > 1:
        return layers, []
    dropped = list(layers)[2:-1]
    three = torch.nn.ModuleList([layers[0], layers[1], layers[-1]])
    for module in model.modules():
        for name, child in module.named_children():
            if child is layers:
                setattr(module, name, three)
    model.config.get_text_config().num_hidden_layers = _KEPT
    return three, dropped


def _signature(layer: Any) -> tuple[Any, ...]:
    """Return a key of the layer's cost: its modules, and the shape, dtype and requires_grad of its parameters."""
    modules = tuple((name, type(module).__name__, _kind(module)) for name, module in layer.named_modules())
    tensors = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in layer.named_parameters())
    return modules, tensors


def _kind(module: Any) -> Any:
    """Return the sliding window of an attention module, in which the layers of some models alternate."""
    return getattr(module, "sliding_window", None)


def _own_frozen_bytes(layers: Any) -> int:
    """Return the bytes of the frozen tensors of the middle layer that it does not share with the first layer."""
    first = {tensor.untyped_storage()._cdata for tensor in tensors_in(layers[0])}
    own = {id(s): s.nbytes() for s in _storages(layers[1]) if s._cdata not in first}
    return sum(own.values())


def _storages(module: Any) -> Iterator[Any]:
    for tensor in tensors_in(module):
        if not tensor.requires_grad:
            yield tensor.untyped_storage()
