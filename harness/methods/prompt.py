"""Prompt tuning: trained embeddings in front of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.methods.base import Setting
from harness.methods.peft_adapter import on_meta
from harness.methods.prompt_learning import Virtual

if TYPE_CHECKING:
    from peft import PromptTuningConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Prompt(Virtual):
    """`num_virtual_tokens` trained embeddings stand before the input's own; each costs a position of the context.

    Trains tokens x hidden parameters. `init`: random (normal), or text, the embeddings of `init_text`, repeated or cut
    to the number of tokens. Lester et al. 2021, arXiv 2104.08691, section 2.
    """

    differs_at_start: ClassVar[str] = "virtual tokens stand in front of the input"

    init: Literal["random", "text"]
    init_text: str | None

    def __post_init__(self) -> None:
        if self.init == "text" and not self.init_text:
            raise ValueError("method.init=text needs method.init_text, the words whose embeddings the prompt begins as")

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PromptTuningConfig:
        """Return the configuration with random vectors; `attach` puts the text in, with the run's own tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type="CAUSAL_LM", prompt_tuning_init="RANDOM", num_virtual_tokens=self.num_virtual_tokens
        )

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Put the prompt in front, with the text's embeddings in it if that was asked for."""
        adapted = super().attach(model, setting)
        if self.init_text is not None and self.init == "text" and not on_meta(model):
            import torch

            ids = setting.tokenizer(self.init_text, add_special_tokens=False)["input_ids"]
            repeated = (ids * -(-self.num_virtual_tokens // len(ids)))[: self.num_virtual_tokens]
            embeddings = model.get_input_embeddings()
            rows = embeddings.weight.detach()[torch.tensor(repeated, device=embeddings.weight.device)]
            prompt = adapted.prompt_encoder["default"].embedding.weight
            prompt.data = rows.to(prompt).clone()
        return adapted

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Tokens x hidden."""
        return self.num_virtual_tokens * int(model.get_input_embeddings().embedding_dim)
