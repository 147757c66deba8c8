"""BitFit: only the biases train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.methods.base import Setting
from harness.methods.parameter_subset import Partial

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Bitfit(Partial):
    """Trains every bias of the model and nothing else. Models without biases, such as Llama, have nothing to train.

    Ben Zaken et al. 2021, arXiv 2106.10199.
    """

    def unsupported_model(self, model: PreTrainedModel) -> str:
        """Return the reason if the model has no biases; "" otherwise."""
        if _biases(model):
            return ""
        return f"this {model.config.model_type} model has no biases, and method=bitfit trains nothing else"

    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """Return the names of the biases."""
        if not _biases(model):
            raise ValueError(self.unsupported_model(model))
        return list(_biases(model))

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the number of elements of all biases."""
        return sum(_biases(model).values())


def _biases(model: PreTrainedModel) -> dict[str, int]:
    """Name of each bias -> its number of elements."""
    last = ((name, name.rpartition(".")[2], p) for name, p in model.named_parameters())
    return {name: p.numel() for name, end, p in last if end == "bias" or end.endswith("_bias")}
