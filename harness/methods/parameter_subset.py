"""Base class of the methods that train a part of the base's weights, or modules that they add to it."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.base import Method, Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

FILE = "trained.safetensors"


@dataclass(frozen=True, kw_only=True)
class Partial(Method):
    """Trains chosen parameters, held in float32 whatever the rest is held in, and saves those alone."""

    @abstractmethod
    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """Return the names of the parameters to train.

        Raises:
            ValueError: there is none.
        """

    def prepare(self, model: PreTrainedModel) -> None:
        """Change the model's structure before anything is chosen or loaded."""

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Freeze everything but the chosen parameters."""
        import torch

        self.prepare(model)
        chosen = set(self.choose(model, setting))
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(name in chosen)
            if name in chosen:
                parameter.data = parameter.data.to(torch.float32)
        return model

    def save(self, model: Any, folder: Path) -> None:
        """Write the trained parameters, by name."""
        from safetensors.torch import save_file

        trained = {name: p.detach().contiguous() for name, p in model.named_parameters() if p.requires_grad}
        save_file(trained, folder / FILE)

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Put the saved parameters into a fresh base.

        Raises:
            ValueError: the base has no such parameters.
        """
        from safetensors.torch import load_file

        self.prepare(model)
        saved = load_file(folder / FILE)
        parameters = dict(model.named_parameters())
        for name, tensor in saved.items():
            if name not in parameters or parameters[name].shape != tensor.shape:
                raise ValueError(f"{folder / FILE}: the base has no {name} of shape {tuple(tensor.shape)}")
            parameters[name].data = tensor.to(parameters[name].device)
        return model

    def merge(self, model: Any) -> Any:
        """Return the model, which is plain already.

        Raises:
            ValueError: the method cannot be merged.
        """
        return super().merge(model) if not self.merges else model
