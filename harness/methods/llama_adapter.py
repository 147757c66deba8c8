"""LLaMA-Adapter: trained prompts that the upper layers attend to, behind a gate that starts closed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, ClassVar

from pydantic import Field

from harness.methods.base import Setting
from harness.methods.contexts import Context, OnModel
from harness.methods.peft_adapter import Adapted

if TYPE_CHECKING:
    from peft import AdaptionPromptConfig
    from transformers import PreTrainedModel

Count = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class LlamaAdapter(Adapted):
    """The attention of the upper layers also reads `adapter_len` trained vectors, times a gate that starts at zero.

    Trains adapter_len x hidden + 1 parameters in each of the last `adapter_layers` layers (null: all but the lowest
    two, as in the paper's 30 of 32). For architectures whose attention PEFT knows how to extend. Zhang et al. 2023,
    arXiv 2303.16199, equations 4 to 7.
    """

    mergeable: ClassVar[bool] = False

    adapter_len: Count
    adapter_layers: Count | None

    def unsupported(self, context: Context) -> str:
        """Refuse a model whose architecture PEFT does not extend for this method."""
        if isinstance(context, OnModel):
            from peft.tuners.adaption_prompt.config import TRANSFORMERS_MODEL_CONFIG

            if (kind := context.model.config.model_type) not in TRANSFORMERS_MODEL_CONFIG:
                supported = ", ".join(sorted(TRANSFORMERS_MODEL_CONFIG))
                return f"method=llama_adapter extends the attention of {supported} models, and this is a {kind}"
        return super().unsupported(context)

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> AdaptionPromptConfig:
        """The upper layers."""
        from peft import AdaptionPromptConfig

        return AdaptionPromptConfig(
            task_type="CAUSAL_LM", adapter_len=self.adapter_len, adapter_layers=self._layers(model)
        )

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """(adapter_len x hidden + 1) x layers."""
        return (self.adapter_len * int(model.config.hidden_size) + 1) * self._layers(model)

    def _layers(self, model: PreTrainedModel) -> int:
        layers = int(model.config.num_hidden_layers)
        if self.adapter_layers is not None and self.adapter_layers > layers:
            raise ValueError(f"method.adapter_layers={self.adapter_layers}: the model has {layers} layers")
        return self.adapter_layers or max(1, layers - 2)
