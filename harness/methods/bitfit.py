"""BitFit: only the biases train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.methods.base import Setting
from harness.methods.contexts import Context, OnModel
from harness.methods.parameter_subset import Partial

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Bitfit(Partial):
    """Trains every bias of the model and nothing else. Models without biases, such as Llama, have nothing to train.

    Ben Zaken et al. 2021, arXiv 2106.10199.
    """

    def unsupported(self, context: Context) -> str:
        """Refuse a model that has no biases."""
        match context:
            case OnModel(model) if not _biases(model):
                return f"this {model.config.model_type} model has no biases, and method=bitfit trains nothing else"
        return super().unsupported(context)

    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """Return the names of the biases."""
        self.require(OnModel(model))
        return list(_biases(model))

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the number of elements of all biases."""
        return sum(_biases(model).values())


def _biases(model: PreTrainedModel) -> dict[str, int]:
    """Name of each bias -> its number of elements."""
    last = ((name, name.rpartition(".")[2], p) for name, p in model.named_parameters())
    return {name: p.numel() for name, end, p in last if end == "bias" or end.endswith("_bias")}
