"""Prompt tuning: trained embeddings in front of the input."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.methods.base import Setting
from harness.methods.peft_adapter import on_meta
from harness.methods.prompt_learning import Virtual
from harness.records.settings import unread_escape

if TYPE_CHECKING:
    from peft import PromptTuningConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Prompt(Virtual):
    """`num_virtual_tokens` trained embeddings stand before the input's own; each costs a position of the context.

    Trains tokens x hidden parameters. `init`: random (normal), or text, the embeddings of `init_text`, repeated to
    the number of tokens. Lester et al. 2021, arXiv 2104.08691, section 2.
    """

    differs_at_start: ClassVar[str] = "virtual tokens stand in front of the input"

    init: Literal["random", "text"]
    init_text: str | None

    def __post_init__(self) -> None:
        if self.init == "text" and not self.init_text:
            raise ValueError("method.init=text needs method.init_text, the words whose embeddings the prompt begins as")
        if self.init != "text" and self.init_text is not None:
            raise ValueError(
                f"method.init_text={self.init_text!r} with method.init={self.init}: it is read with method.init=text "
                "alone"
            )

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PromptTuningConfig:
        """Return the configuration with random vectors; `attach` puts the text in, with the run's own tokenizer."""
        from peft import PromptTuningConfig

        return PromptTuningConfig(
            task_type="CAUSAL_LM", prompt_tuning_init="RANDOM", num_virtual_tokens=self.num_virtual_tokens
        )

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Put the prompt in front, with the text's embeddings in it if that was asked for.

        Raises:
            ValueError: the text holds an escape sequence, has no token, or more than there are virtual tokens.
        """
        ids = self._tokens(setting.tokenizer) if self.init == "text" and setting.own_tokenizer else []
        adapted = super().attach(model, setting)
        if ids and not on_meta(model):
            import torch

            repeated = (ids * -(-self.num_virtual_tokens // len(ids)))[: self.num_virtual_tokens]
            embeddings = model.get_input_embeddings()
            rows = embeddings.weight.detach()[torch.tensor(repeated, device=embeddings.weight.device)]
            prompt = adapted.prompt_encoder["default"].embedding.weight
            prompt.data = rows.to(prompt).clone()
        return adapted

    def _tokens(self, tokenizer: Any) -> list[int]:
        text = self.init_text or ""
        if escape := unread_escape(text):
            raise ValueError(
                f"method.init_text={text!r}: {escape} is a backslash and a letter there, and the prompt would begin as "
                "their embeddings. Give the sign itself: in double quotes in a YAML file, or in a shell as in "
                "$'method.init_text=\"one line\\nanother\"'"
            )
        ids = list(tokenizer(text, add_special_tokens=False)["input_ids"])
        if not ids:
            raise ValueError(f"method.init_text={text!r} has no token for this model; give words")
        if len(ids) > self.num_virtual_tokens:
            raise ValueError(
                f"method.init_text has {len(ids)} tokens and method.num_virtual_tokens={self.num_virtual_tokens}: the "
                f"end of the text would be left out; give a shorter text, or {len(ids)} virtual tokens or more"
            )
        return ids

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Tokens x hidden."""
        return self.num_virtual_tokens * int(model.get_input_embeddings().embedding_dim)
