"""QDoRA: DoRA on a frozen base held in 4 or 8 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.methods import targets
from harness.methods.qlora import Qlora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Qdora(Qlora):
    """DoRA beside weights that are stored as QLoRA stores them; the norms are taken of the dequantized weights.

    Trains what DoRA trains. Liu et al. 2024, arXiv 2402.09353 (section 5.6, answer.ai's QDoRA).
    """

    leaves_inputs: ClassVar[bool] = False  # the dtype of the norms is that of the inputs
    use_dora: ClassVar[bool] = True

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """LoRA's count and one magnitude per output of each adapted matrix."""
        magnitudes = sum(d_out for _, d_out in targets.shapes_of(model, self.target).values())
        return super().expected_trainable(model) + magnitudes
