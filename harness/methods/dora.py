"""DoRA: LoRA on the direction of each weight column, with a trained magnitude."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from harness.methods import targets
from harness.methods.lora import Lora

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Dora(Lora):
    """m (W + s B A) / ||W + s B A||, the norm taken per output and m starting at ||W||, so that step 0 is the base.

    Trains d_out parameters per adapted matrix beside LoRA's, and pays for the norm in time and memory.
    Liu et al. 2024, arXiv 2402.09353, equation 5.
    """

    leaves_inputs: ClassVar[bool] = False  # the dtype of the norms is that of the inputs
    use_dora: ClassVar[bool] = True
    quantized_as: ClassVar[str | None] = "qdora"

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """LoRA's count and one magnitude per output of each adapted matrix."""
        magnitudes = sum(d_out for _, d_out in targets.shapes_of(model, self.target).values())
        return super().expected_trainable(model) + magnitudes
