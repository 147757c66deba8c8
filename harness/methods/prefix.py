"""Prefix tuning: trained keys and values in front of every layer's own."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.methods.base import Setting
from harness.methods.contexts import Context, TrainedWith
from harness.methods.prompt_learning import Tokens, Virtual

if TYPE_CHECKING:
    from peft import PrefixTuningConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Prefix(Virtual):
    """Every attention layer sees `num_virtual_tokens` trained keys and values before those of the input.

    Trains 2 x tokens x layers x width of keys; with `prefix_projection`, tokens x that width and a two-layer perceptron
    that makes the keys and values of all layers, of which only the output is saved. Refuses gradient checkpointing,
    which would lose the prefix. Li & Liang 2021, arXiv 2101.00190, section 4.
    """

    differs_at_start: ClassVar[str] = "random keys and values stand in front of the input's own"

    in_every_layer: ClassVar[bool] = True

    prefix_projection: bool
    encoder_hidden_size: Tokens | None  # null: the width of one layer's keys; read with prefix_projection

    def __post_init__(self) -> None:
        if self.encoder_hidden_size is not None and not self.prefix_projection:
            raise ValueError(
                f"method.encoder_hidden_size={self.encoder_hidden_size} with method.prefix_projection=false: it is the "
                "inner width of the projection; set method.prefix_projection=true, or leave it null"
            )

    def unsupported(self, context: Context) -> str:
        """Refuse gradient checkpointing, and what prompt learning refuses."""
        match context:
            case TrainedWith(spec) if spec.gradient_checkpointing:
                return (
                    "train.gradient_checkpointing=true with method=prefix: what is computed again would lack the "
                    "prefix: set it to false, or use method=prompt"
                )
        return super().unsupported(context)

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PrefixTuningConfig:
        """Keys and values of the model's own shape."""
        from peft import PrefixTuningConfig

        return PrefixTuningConfig(
            task_type="CAUSAL_LM",
            num_virtual_tokens=self.num_virtual_tokens,
            prefix_projection=self.prefix_projection,
            encoder_hidden_size=self.encoder_hidden_size or _key_width(model),
        )

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """2 x tokens x layers x key width; with projection tokens x key width and the perceptron."""
        width, layers = _key_width(model), int(model.config.num_hidden_layers)
        if not self.prefix_projection:
            return 2 * self.num_virtual_tokens * layers * width
        inner = self.encoder_hidden_size or width
        return self.num_virtual_tokens * width + (width + 1) * inner + (inner + 1) * 2 * layers * width


def _key_width(model: PreTrainedModel) -> int:
    """Heads of keys and values times their size, in one layer."""
    config = model.config
    heads = int(config.num_attention_heads)
    size = getattr(config, "head_dim", None) or config.hidden_size // heads
    return int(size) * int(getattr(config, "num_key_value_heads", None) or heads)
