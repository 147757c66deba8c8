"""LoRA-FA: LoRA whose A stays as it was drawn."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class LoraFa(Lora):
    """LoRA in which only B (d_out x r) trains; A keeps its initial values.

    Trains r d_out parameters per adapted matrix, and needs only A x, of width r, where LoRA keeps x for the backward
    pass. Zhang et al. 2023, arXiv 2308.03303, equation 4.
    """

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """LoRA with its A matrices frozen."""
        adapted = super().attach(model, setting)
        for name, parameter in adapted.named_parameters():
            if ".lora_A." in name:
                parameter.requires_grad_(False)
        return adapted

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """LoRA's count without r d_in of each adapted matrix."""
        modules, experts = targets.resolve_all(model, self.target)
        frozen = sum(self.r * targets.shape(module)[0] for module in modules.values())
        frozen += sum(self.r * number * d_in for number, d_in, _ in experts.values())
        return super().expected_trainable(model) - frozen
