"""P-tuning: virtual tokens that a small network makes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.methods.base import Setting
from harness.methods.prompt_learning import Tokens, Virtual

if TYPE_CHECKING:
    from peft import PromptEncoderConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class PTuning(Virtual):
    """`num_virtual_tokens` embeddings, put through a trained three-layer perceptron, stand before the input's own.

    Trains tokens x hidden parameters and the perceptron's, of inner width `encoder_hidden_size`; what is saved is its
    output alone. Liu et al. 2021, arXiv 2103.10385, section 3.2; their network is an LSTM before two layers.
    """

    differs_at_start: ClassVar[str] = "virtual tokens stand in front of the input"

    encoder_hidden_size: Tokens | None  # null: the model's own

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PromptEncoderConfig:
        """A perceptron as encoder."""
        from peft import PromptEncoderConfig

        return PromptEncoderConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            encoder_reparameterization_type="MLP",
            encoder_hidden_size=self._width(model),
        )

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Tokens x hidden, and three layers with biases: hidden -> width -> width -> hidden."""
        hidden, width = int(model.get_input_embeddings().embedding_dim), self._width(model)
        perceptron = (hidden + 1) * width + (width + 1) * width + (width + 1) * hidden
        return self.num_virtual_tokens * hidden + perceptron

    def _width(self, model: PreTrainedModel) -> int:
        return self.encoder_hidden_size or int(model.get_input_embeddings().embedding_dim)
