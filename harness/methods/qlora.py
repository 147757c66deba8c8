"""QLoRA: LoRA on a frozen base held in 4 bits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.methods.lora import Lora

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True)
class Qlora(Lora):
    """LoRA whose frozen linear layers are stored in 4 bits and dequantised to the compute dtype when they are used.

    Embeddings, norms and the output head stay as they are. Evaluated on its quantised base: merging into an
    unquantised one would be another model. Dettmers et al. 2023, arXiv 2305.14314.

    PEFT's `prepare_model_for_kbit_training` is left out: beside freezing, which the loader does, it would cast norms and
    embeddings to float32, so that QLoRA alone were computed in another precision than what it is compared with, and
    switch on gradient checkpointing, which is for the train group to say.
    """

    differs_at_start: ClassVar[str] = "the base's weights are rounded to 4 bits"

    bits: Literal["nf4", "fp4"]
    double_quantisation: bool

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Quantise while loading; what is not quantised is held in the compute dtype."""
        from transformers import BitsAndBytesConfig

        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=self.bits,
            bnb_4bit_use_double_quant=self.double_quantisation,
            bnb_4bit_compute_dtype=compute_dtype,
        )
        return {"dtype": compute_dtype, "quantization_config": quantisation}
