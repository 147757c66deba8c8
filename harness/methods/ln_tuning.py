"""LN tuning: only the normalizations train."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.peft_adapter import Adapted

if TYPE_CHECKING:
    from peft import LNTuningConfig
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class LnTuning(Adapted):
    """Trains the weights, and biases where there are any, of every normalization; everything else is frozen.

    Zhao et al. 2024, arXiv 2312.11420, section 3.
    """

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> LNTuningConfig:
        """Return the configuration that trains every normalization with a weight."""
        from peft import LNTuningConfig

        return LNTuningConfig(task_type="CAUSAL_LM", target_modules=list(targets.norms(model)))

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Return the number of elements of every normalization."""
        return sum(p.numel() for module in targets.norms(model).values() for p in module.parameters())
