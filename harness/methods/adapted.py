"""What the methods that PEFT implements have in common: a configuration of PEFT's is all that tells them apart."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.methods.base import Method, Setting

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Adapted(Method):
    """A frozen base with an adapter of PEFT's around it, held in float32 and saved as an ordinary PEFT folder."""

    @abstractmethod
    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PeftConfig:
        """The adapter's configuration for this model.

        Raises:
            ValueError: the target matches no module of the model.
        """

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap what the configuration names."""
        from peft import get_peft_model

        return get_peft_model(model, self.peft_config(model, setting))


def on_meta(model: Any) -> bool:
    """Whether the model has shapes and names but no weights, as while a configuration is checked."""
    return bool(next(model.parameters()).device.type == "meta")
