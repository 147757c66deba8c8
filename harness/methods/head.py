"""Feature extraction: only the output head trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.methods.base import Setting
from harness.methods.parameter_subset import Partial

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Head(Partial):
    """Trains the output head on the frozen model's features, and nothing below it: vocabulary x hidden parameters.

    Where the head shares its matrix with the input embeddings, it gets a copy of its own first, so that the inputs stay
    as they were: the model then has that many parameters more than its base.
    """

    def prepare(self, model: PreTrainedModel) -> None:
        """Give the head a matrix of its own."""
        import torch

        head, embeddings = model.get_output_embeddings(), model.get_input_embeddings()
        if head.weight is embeddings.weight:
            head.weight = torch.nn.Parameter(head.weight.detach().clone())
            model.config.tie_word_embeddings = False

    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """Return the names of the head's parameters."""
        own = {id(p) for p in model.get_output_embeddings().parameters()}
        return [name for name, p in model.named_parameters() if id(p) in own]

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return vocabulary x hidden, and the head's bias if it has one."""
        return sum(p.numel() for p in model.get_output_embeddings().parameters())
