"""Base class of the methods that PEFT implements. They differ in the PEFT configuration that they return."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.base import Method, Setting
from harness.sources import pickles

if TYPE_CHECKING:
    import torch
    from peft import PeftConfig
    from transformers import PreTrainedModel


_SCALES = (".ia3_l.", ".boft_s.")  # vectors that PEFT holds as matrices of one row or column, and that begin as ones


@dataclass(frozen=True, kw_only=True)
class Adapted(Method):
    """A frozen base with an adapter of PEFT's around it, held in float32 and saved as an ordinary PEFT folder."""

    @abstractmethod
    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PeftConfig:
        """Return the adapter's configuration for this model.

        Raises:
            ValueError: the target matches no module of the model.
        """

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap the modules that the configuration names, and hold what trains in float32."""
        from peft import get_peft_model

        adapted = get_peft_model(model, self.peft_config(model, setting))
        hold_in_float32(p for p in adapted.parameters() if p.requires_grad)
        return adapted

    def is_decayed(self, name: str, parameter: torch.Tensor) -> bool:
        """Return whether weight decay applies: decay would draw the factors of (IA)3 and BOFT to zero, not to one."""
        return super().is_decayed(name, parameter) and not any(part in name for part in _SCALES)

    @contextmanager
    def fixed_weights(self, model: Any) -> Iterator[None]:
        """Cache DoRA's weight norms, which PEFT takes of every adapted matrix in each forward pass.

        PEFT's cache would hold B A of each matrix as well, as large as the model in float32: it is only needed for the
        norm, and an empty tensor takes its place.
        """
        from peft.helpers import DoraCaching

        layers = [module for module in model.modules() if hasattr(module, "_dora_cache")]
        before = [layer._dora_cache for layer in layers]
        for layer in layers:
            layer._dora_cache = _NormCache()
        try:
            with DoraCaching():
                yield
        finally:
            for layer, cache in zip(layers, before, strict=True):
                layer._dora_cache = cache

    def merge(self, model: Any) -> Any:
        """Fold the update into the base's weights, layer by layer in float32, rounded back to their dtype.

        Raises:
            ValueError: the method cannot be merged.
        """
        from peft.tuners.tuners_utils import BaseTunerLayer

        layers = [m for m in model.modules() if isinstance(m, BaseTunerLayer)] if self.merges else []
        untied = _untie(model, layers)
        for layer in layers:
            with _widened(layer.get_base_layer()):
                try:
                    layer.merge()
                except NotImplementedError as error:
                    raise ValueError(f"method={self.name} cannot be merged: PEFT says {error}") from error
            vars(layer)["merge"] = _nothing  # PEFT merges again as it unloads, and OSF's layers would do so twice
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*(tie_word_embeddings|no longer tied)")  # seen to here
            plain = super().merge(model)
        _settle_tie(plain, untied)
        return plain

    def saved(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the tensors that PEFT saves for the adapter, frozen ones included."""
        from peft import get_peft_model_state_dict

        tensors: dict[str, torch.Tensor] = get_peft_model_state_dict(model, save_embedding_layers=False)
        return tensors

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Attach to a fresh base model what `save` wrote, in the precision in which it was trained."""
        from peft import PeftModel, load_peft_weights, set_peft_model_state_dict

        pickles.refuse(folder, str(folder))
        base = {id(parameter) for parameter in model.parameters()}
        adapted = PeftModel.from_pretrained(model, str(folder))
        if hold_in_float32(p for p in adapted.parameters() if id(p) not in base):
            device = next(adapted.parameters()).device.type
            set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device=device))  # rounded while it loaded
        return adapted


class _NormCache(dict[str, Any]):
    """PEFT's cache of a DoRA layer, which asks for "lora-weight-..." and hands it to the cached "weight-norm-..."."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value.new_empty(0) if key.startswith("lora-weight") else value)


def _untie(model: Any, layers: Iterable[Any]) -> bool:
    """Give adapted layers that share a weight with others, as a head with embeddings, their own; return whether any do.

    Attached, each has an update of its own, or none. Merged into the one weight, it would be the update of all.
    """
    import torch

    adapters = list(map(id, layers))
    plain = {id(module): module for module in model.modules() if id(module) not in adapters}
    users = Counter(id(module._parameters.get("weight")) for module in plain.values())
    shared = [inner for layer in layers if users[id(getattr(inner := layer.get_base_layer(), "weight", None))] > 1]
    for inner in shared:
        inner.weight = torch.nn.Parameter(inner.weight.detach().clone(), requires_grad=False)
    return bool(shared)


def _settle_tie(plain: Any, untied: bool) -> None:
    """Say in the configuration whether the head still has the embeddings' weight, after both may have been changed."""
    import torch

    head, embeddings = plain.get_output_embeddings(), plain.get_input_embeddings()
    if untied and head is not None and torch.equal(head.weight, embeddings.weight):  # both were changed alike
        head.weight = embeddings.weight
        plain.config.tie_word_embeddings = True
    elif head is not None and head.weight is not embeddings.weight:  # or `modules_to_save` trains a copy of one of them
        plain.config.tie_word_embeddings = False


def _nothing(*_: Any, **__: Any) -> None:
    """Do nothing, as a layer that was merged before."""


@contextmanager
def _widened(layer: torch.nn.Module) -> Iterator[None]:
    """Hold a layer's own parameters in float32, and round them back at the end."""
    import torch

    narrow = [p for p in layer.parameters(recurse=False) if p.dtype in (torch.bfloat16, torch.float16)]
    dtypes = [parameter.dtype for parameter in narrow]
    for parameter in narrow:
        parameter.data = parameter.data.float()
    yield
    for parameter, dtype in zip(narrow, dtypes, strict=True):
        parameter.data = parameter.data.to(dtype)


def hold_in_float32(parameters: Iterable[torch.nn.Parameter]) -> bool:
    """Cast parameters in bfloat16 or float16 to float32; return whether there were any.

    PEFT leaves those of some adapter types in the base's dtype.
    """
    import torch

    rounded = [parameter for parameter in parameters if parameter.dtype in (torch.bfloat16, torch.float16)]
    for parameter in rounded:
        parameter.data = parameter.data.to(torch.float32)
    return bool(rounded)


def on_meta(model: Any) -> bool:
    """Return whether the model has shapes and names but no weights, as while a configuration is checked."""
    return bool(next(model.parameters()).device.type == "meta")
