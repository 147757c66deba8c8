"""Activated LoRA: an adapter that begins where it is called."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods.base import Setting
from harness.methods.contexts import Context, OnRows, Packed, Served
from harness.methods.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_MARK = "\u2063content\u2063"  # no template writes this


@dataclass(frozen=True, kw_only=True)
class Alora(Lora):
    """LoRA that acts from the last occurrence of an invocation string on, so that the keys and values before it are the
    base's own and can be shared between adapters.

    `invocation`: what the data set says stands before each answer (`data.invocation`); null: the header that the chat
    template puts there. Rows without the string train nothing, and a data set in which no row has it is an error. Costs
    what LoRA costs. Greenewald et al. 2025, arXiv 2504.12397, section 3.
    """

    mergeable: ClassVar[bool] = False
    leaves_inputs: ClassVar[bool] = False
    inits: ClassVar[tuple[str, ...]] = ("default", "gaussian")

    invocation: str | None

    def unsupported(self, context: Context) -> str:
        """Refuse packing, a server of adapters, and training rows of which none contains the invocation."""
        match context:
            case Packed():
                return "the adapter begins at the last invocation of a row, not of each example in it"
            case Served():
                return "it acts from its invocation on"  # and the server would apply it from the first token on
            case OnRows(rows, tokenizer):
                return self._without_invocation(rows, tokenizer)
        return super().unsupported(context)

    def _without_invocation(self, rows: Sequence[Mapping[str, list[int]]], tokenizer: Any) -> str:
        """Return the reason if no row has the invocation, since rows without it train nothing; "" otherwise."""
        tokens = self._tokens(tokenizer)
        if any(_contains(row["input_ids"], tokens) for row in rows):
            return ""
        text = self.invocation or _assistant_header(tokenizer)
        return (
            f"method.invocation={text!r}: none of the {len(rows)} training rows has it (tokens {tokens}), "
            "so that nothing would be trained: give data.invocation or method.invocation a string that the prompts "
            "contain, or chat-formatted data"
        )

    def _check_experts(self, experts: dict[str, Any]) -> None:
        if experts:
            raise ValueError(
                f"target={self.target} covers experts that are three-dimensional parameters, which PEFT does not adapt "
                "from an invocation on: use target=attention, or method=lora"
            )

    def more_options(self, model: PreTrainedModel, setting: Setting) -> dict[str, Any]:
        """Return the invocation's tokens, which must occur in the training rows."""
        if setting.rows:
            self.require(OnRows(setting.rows, setting.tokenizer))
        return {"alora_invocation_tokens": self._tokens(setting.tokenizer)}

    def _tokens(self, tokenizer: Any) -> list[int]:
        text = self.invocation or _assistant_header(tokenizer)
        return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _contains(row: list[int], tokens: list[int]) -> bool:
    return any(row[i : i + len(tokens)] == tokens for i in range(len(row) - len(tokens) + 1))


def _assistant_header(tokenizer: Any) -> str:
    """Return the text that the chat template writes between a question and its answer."""
    if not tokenizer.chat_template:
        raise ValueError(
            "method.invocation=null stands for the chat template's assistant header, and this tokenizer has no chat "
            "template: give method.invocation a string that every prompt contains"
        )
    question = [{"role": "user", "content": "?"}]
    question_text = tokenizer.apply_chat_template(question, tokenize=False)
    answered = tokenizer.apply_chat_template([*question, {"role": "assistant", "content": _MARK}], tokenize=False)
    header = str(answered).partition(_MARK)[0].removeprefix(question_text)
    if not header.strip():
        raise ValueError("method.invocation=null: the chat template puts nothing before an answer; give one")
    return header.strip()
