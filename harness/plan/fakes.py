"""A model whose tensors have shapes, dtypes and a device but no data: the code that trains runs on it as on a real one.

The model and its adapter are built on the meta device, since PEFT cannot attach under a FakeTensorMode; then every
parameter and buffer is replaced by a fake. Of many equal layers three are kept (the first, one that stands for all
between, the last), and the tensors of the others are counted without being computed with.
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

from harness.measure.live import tensors_in

_KEPT = 3  # layers that are computed with, where all are equal


@dataclass(frozen=True)
class FakeModel:
    """What the loop is given, and what of the whole model it does not see.

    `repeats`: how many layers the middle one of the three stands for beside itself, 0 where all layers are there.
    `unseen_bytes`: frozen weights of those layers; `unseen`: a trained parameter of the middle layer -> theirs.
    """

    model: Any
    mode: FakeTensorMode
    layers: Any  # the torch.nn.ModuleList of decoder layers as it is computed with
    repeats: int = 0
    unseen_bytes: int = 0
    unseen: dict[torch.nn.Parameter, list[torch.nn.Parameter]] = field(default_factory=dict)

    @property
    def unseen_trained(self) -> list[torch.nn.Parameter]:
        """The trained parameters of the layers left out."""
        return [parameter for several in self.unseen.values() for parameter in several]

    def trained(self) -> list[torch.nn.Parameter]:
        """Every trained parameter of the whole model."""
        seen = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        return [*seen, *self.unseen_trained]


def quantised(model: Any, options: dict[str, Any]) -> Any:
    """The meta model with the layers in place that a method's `load_options` ask for, as the loader puts them."""
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
    functional.name2qmap.setdefault("dynamic", functional.create_dynamic_map())  # made of values: before the fakes
    return model.requires_grad_(False)


def fake(model: Any, shorten: bool) -> FakeModel:
    """Replace every tensor of a model on the meta device by a fake on the CPU; ties stay ties.

    `shorten`: leave out all but three of the layers, if they are equal.
    """
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    layers, dropped = _shortened(model) if shorten else (decoder_layers(model), [])
    known: dict[int, Any] = {}
    with mode:
        for module in model.modules():
            _replace(module, known)
        trained = [p for p in layers[1].parameters() if p.requires_grad] if dropped else []
        unseen = {one: [torch.nn.Parameter(_buffer(one)) for _ in dropped] for one in trained}
    frozen = _own_frozen_bytes(layers) if dropped else 0
    return FakeModel(model, mode, layers, len(dropped), frozen * len(dropped), unseen)


def _replace(module: Any, known: dict[int, Any]) -> None:
    for table in (module._parameters, module._buffers):
        for name, tensor in table.items():
            if tensor is None:
                continue
            if id(tensor) not in known:
                known[id(tensor)] = (
                    _parameter(tensor, module) if isinstance(tensor, torch.nn.Parameter) else _buffer(tensor)
                )
            table[name] = known[id(tensor)]


def _buffer(tensor: torch.Tensor) -> torch.Tensor:
    return torch.empty(tensor.shape, dtype=tensor.dtype, device="cpu")


def _parameter(parameter: torch.nn.Parameter, owner: Any) -> torch.nn.Parameter:
    """A fake of a parameter; of one that bitsandbytes holds in few bits, of what it becomes on its way to a device.

    Their own classes cannot wrap a fake tensor, and are not asked for by the layers.
    """
    kind = type(parameter).__name__
    if kind == "Params4bit":
        return _in_four_bits(torch.empty(parameter.shape, dtype=owner.compute_dtype), vars(parameter))
    result = torch.nn.Parameter(_buffer(parameter), requires_grad=parameter.requires_grad)
    if kind == "Int8Params":
        result = torch.nn.Parameter(torch.empty(parameter.shape, dtype=torch.int8), requires_grad=False)
        result.CB, result.SCB = result.data, torch.empty(parameter.shape[0])
    return result


def _in_four_bits(data: torch.Tensor, kept: dict[str, Any]) -> torch.nn.Parameter:
    """bitsandbytes' own quantisation, on shapes: the packed weights and their constants."""
    from bitsandbytes.functional import quantize_4bit

    options = ("blocksize", "compress_statistics", "quant_type", "quant_storage")
    packed, state = quantize_4bit(data, **{option: kept[option] for option in options})
    result = torch.nn.Parameter(packed, requires_grad=False)
    result.quant_state = state
    return result


def as_if_not_traced() -> Any:
    """A context in which transformers takes the paths that it takes in training.

    It recognises fake tensors, takes them for an export and keeps an attention mask that it drops for whole rows.
    """
    return mock.patch.object(masking_utils, "is_tracing", return_value=False)


@contextlib.contextmanager
def as_on_gpu() -> Iterator[None]:
    """Within, fake tensors that claim to be on a CPU take the memory that they would take on a GPU.

    TRL's output head folds its tiles in place there, by Triton, where its functions for a CPU hold several float32
    copies of a tile. PEFT asks whether CUDA's autocast is on, and leaves the inputs of quantised layers alone where it
    is.
    """

    def forward(tile: torch.Tensor, *_: Any, **__: Any) -> None:
        """Statistics go into tensors that are there already."""

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
    """The list of a model's layers: the ModuleList as long as the configuration says there are layers; None if none."""
    number = model.config.get_text_config().num_hidden_layers
    lists = [m for m in model.modules() if isinstance(m, torch.nn.ModuleList) and len(m) == number]
    return lists[0] if lists else None


def _shortened(model: Any) -> tuple[Any, list[Any]]:
    """(the layers that are computed with, those left out): three and the rest where all are equal, else all."""
    layers = decoder_layers(model)
    if layers is None or len(layers) <= _KEPT or len({_signature(layer) for layer in layers}) > 1:
        return layers, []
    dropped = list(layers)[2:-1]
    kept = torch.nn.ModuleList([layers[0], layers[1], layers[-1]])
    for module in model.modules():
        for name, child in module.named_children():
            if child is layers:
                setattr(module, name, kept)
    model.config.get_text_config().num_hidden_layers = _KEPT
    return kept, dropped


def _signature(layer: Any) -> tuple[Any, ...]:
    """What makes two layers cost the same: modules and parameters by name, shape, dtype and whether they train."""
    modules = tuple((name, type(module).__name__, _kind(module)) for name, module in layer.named_modules())
    tensors = tuple((n, tuple(p.shape), p.dtype, p.requires_grad) for n, p in layer.named_parameters())
    return modules, tensors


def _kind(module: Any) -> Any:
    """What a layer says of its attention, where layers take turns."""
    return getattr(module, "sliding_window", None)


def _own_frozen_bytes(layers: Any) -> int:
    """Bytes of what does not train in the middle layer and is not shared with the first."""
    first = {tensor.untyped_storage()._cdata for tensor in tensors_in(layers[0])}
    own = {id(s): s.nbytes() for s in _storages(layers[1]) if s._cdata not in first}
    return sum(own.values())


def _storages(module: Any) -> Iterator[Any]:
    for tensor in tensors_in(module):
        if not tensor.requires_grad:
            yield tensor.untyped_storage()
