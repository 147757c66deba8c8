"""QLoRA: LoRA on a frozen base held in 4 or 8 bits."""

from __future__ import annotations

import math
import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.contexts import Context, OnDevice, OnModel, Planned, Served, Sharded
from harness.methods.lora import Lora
from harness.methods.peft_adapter import on_meta
from harness.sources import models

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

    from harness.methods.base import Method

_PAGED_ELEMENTS = 100_000  # of a parameter whose moments bitsandbytes pages (`Optimizer8bit.get_state_buffer`)
INT8_THRESHOLD = 6.0  # the paper's, section 3.2, and bitsandbytes' default


@dataclass(frozen=True, kw_only=True)
class Qlora(Lora):
    """LoRA whose frozen linear layers are stored in few bits and dequantized to the compute dtype when they are used.

    `quantization` says how: nf4, fp4 or int8 (none: as LoRA does); `double_quantization` stores the constants of the
    4-bit formats in 8 bits, which saves 0.37 bit per weight. Embeddings, norms and the output head stay as they are.

    int8 is another computation on a GPU than on a CPU. On a GPU it is LLM.int8() (Dettmers et al. 2022, arXiv
    2208.07339): inputs are rounded to 8 bits as well, row by row, but for columns with an entry above
    `llm_int8_threshold`, which are multiplied in 16 bits (0: none are). On a CPU the weights are dequantized. Scores of
    the two are not comparable.

    Evaluated on its quantized base; merging dequantizes the base first. Dettmers et al. 2023, arXiv 2305.14314.

    `optimizer`: the paged ones keep their state in memory that the driver moves to the host when the device is full,
    the 8-bit one in a quarter of the bytes; both need CUDA. `init_lora_weights=loftq` sets A and B to the largest
    part of what quantization lost (Li et al. 2023, arXiv 2310.08659): it reads the unquantized weights once more and
    decomposes
    every matrix in full while loading, which is no step's time.

    `prepare_for_kbit_training`: hold norms, embeddings and head in float32, as PEFT's `prepare_model_for_kbit_training`
    does (gradient checkpointing, which it can switch on, is for the train group to say). Off, since QLoRA alone were
    then computed in another precision than what it is compared with.
    """

    differs_at_start: ClassVar[str] = "the base's weights are rounded to fewer bits"
    inits: ClassVar[tuple[str, ...]] = ("default", "gaussian", "loftq", "eva")
    added: ClassVar[dict[str, Any]] = {"llm_int8_threshold": INT8_THRESHOLD}

    quantization: Literal["none", "int8", "fp4", "nf4"]
    double_quantization: bool
    optimizer_name: Literal["adamw", "paged_adamw_32bit", "paged_adamw_8bit"]
    prepare_for_kbit_training: bool = False
    llm_int8_threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)] = INT8_THRESHOLD

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.init_lora_weights == "loftq" and self.quantization not in ("nf4", "fp4"):
            raise ValueError(
                f"method.init_lora_weights=loftq with method.quantization={self.quantization}: it needs "
                "quantization nf4 or fp4"
            )
        if self.llm_int8_threshold != INT8_THRESHOLD and self.quantization != "int8":
            raise ValueError(
                f"method.llm_int8_threshold={self.llm_int8_threshold} with "
                f"method.quantization={self.quantization}: it is read with quantization=int8 alone"
            )

    def unsupported(self, context: Context) -> str:
        """Refuse what LoRA refuses, paged moments without CUDA or sharded, and a packed base sharded or served.

        A model with experts in one parameter is refused as well: almost all of its weights would stay as they are.
        """
        is_paged, is_packed = self.optimizer_name != "adamw", self.quantization != "none"
        match context:
            case OnDevice(device) if is_paged and device != "cuda":
                return f"method.optimizer_name={self.optimizer_name} needs CUDA: paged memory is the driver's"
            case OnModel(model) if is_packed and (experts := targets.expert_parameters(model)):
                share = sum(math.prod(shape) for shape in experts.values()) / sum(p.numel() for p in model.parameters())
                return (
                    f"method={self.name} method.quantization={self.quantization}: bitsandbytes packs linear layers, "
                    f"and {share:.0%} of this {model.config.model_type} model are experts in three-dimensional "
                    "parameters, which would stay in 16 bits; use method=lora"
                )
            case Planned() if is_paged:
                return (
                    f"method.optimizer_name={self.optimizer_name}: the moments are AdamW's, and those that the driver "
                    "may move to the host are not in the peak"
                )
            case Sharded() if is_packed:
                return f"a base of method.quantization={self.quantization} is packed, and cannot be divided"
            case Sharded() if is_paged:
                return f"what method.optimizer_name={self.optimizer_name} holds cannot be divided"
            case Served() if is_packed:
                own = super().unsupported(context)
                return own or f"its base is quantized (method.quantization={self.quantization})"
        return super().unsupported(context)

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Return options that quantize while loading; the rest is held in the compute dtype."""
        from transformers import BitsAndBytesConfig

        if self.quantization == "none":
            return super().load_options(compute_dtype)
        if self.quantization == "int8":
            return {
                "dtype": compute_dtype,
                "quantization_config": BitsAndBytesConfig(
                    load_in_8bit=True, llm_int8_threshold=self.llm_int8_threshold
                ),
            }
        return in_four_bits(self.quantization, self.double_quantization, compute_dtype)

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Attach LoRA; for `loftq` put the part of the weights that quantization lost into A and B."""
        adapted = super().attach(self._prepared(model), setting)
        if self.init_lora_weights == "loftq" and not on_meta(model):
            _restore_what_was_lost(adapted, setting)
        return adapted

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Prepare a fresh base as for training, then restore the adapter as LoRA does."""
        return super().restore(self._prepared(model), folder)

    def _prepared(self, model: PreTrainedModel) -> PreTrainedModel:
        from peft import prepare_model_for_kbit_training

        _keep_layout(model)
        if not self.prepare_for_kbit_training:
            return model
        prepared: PreTrainedModel = prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
        return prepared

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return AdamW, paged if the setting asks for it."""
        if self.optimizer_name == "adamw":
            return super().optimizer(groups)
        from harness.methods.optimizers import paged

        return paged(self.optimizer_name, groups)

    def planned(self) -> Method:
        """Return the method with AdamW: paged memory is the driver's, and a plan has none."""
        return replace(self, optimizer_name="adamw")

    def resident_optimizer_bytes(self, parameter: torch.Tensor) -> int:
        """Return 0 for paged moments, which the driver moves to the host when the device is full."""
        is_paged = self.optimizer_name != "adamw" and parameter.numel() >= _PAGED_ELEMENTS
        return 0 if is_paged else super().resident_optimizer_bytes(parameter)

    def merge(self, model: Any) -> Any:
        """Dequantize the base and fold the update into it: merged into few bits, it would be rounded away."""
        from peft import PeftModel

        if not getattr(model.get_base_model(), "is_quantized", False):
            return models.own_layers(super().merge(model))
        with tempfile.TemporaryDirectory() as folder:
            model.save_pretrained(folder)
            plain = model.unload().dequantize()
            return models.own_layers(super().merge(PeftModel.from_pretrained(plain, folder)))


def in_four_bits(quantization: str, double: bool, compute_dtype: torch.dtype) -> dict[str, Any]:
    """Return keyword arguments of `from_pretrained` that quantize a base to "fp4" or "nf4" while loading."""
    from transformers import BitsAndBytesConfig

    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type=quantization,
        bnb_4bit_use_double_quant=double,
        bnb_4bit_compute_dtype=compute_dtype,
    )
    return {"dtype": compute_dtype, "quantization_config": config}


def _keep_layout(model: PreTrainedModel) -> None:
    """Keep bitsandbytes 0.50 from repacking 4-bit weights for inference on processors with AVX512-BF16.

    Repacked weights pass on no gradient, in training either. They are also dequantized to wrong values, which DoRA's
    norms and merging would read.
    """
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False


def _restore_what_was_lost(adapted: Any, setting: Setting) -> None:
    """Take one step of LoftQ: make s B A the best approximation of what quantization took from each weight.

    PEFT's own implementation needs CUDA, and leaves out the scale s.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit

    stored = dict(setting.original().named_modules())
    prefix = "base_model.model."
    for name, layer in adapted.named_modules():
        if not hasattr(layer, "lora_A"):
            continue
        a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
        packed = layer.get_base_layer().weight
        dequantized = dequantize_4bit(packed.data, packed.quant_state).to(torch.float32)
        lost = _by_output(stored[name.removeprefix(prefix)]).to(dequantized) - dequantized
        u, s, vh = torch.linalg.svd(lost, full_matrices=False)
        root = (s[: len(a)] / layer.scaling["default"]).sqrt()
        a.data = (root[:, None] * vh[: len(a)]).to(a)
        b.data = (u[:, : len(a)] * root).to(b)


def _by_output(module: Any) -> torch.Tensor:
    """Return a weight as d_out x d_in, as bitsandbytes quantizes it; GPT-2's Conv1D keeps it transposed."""
    weight: torch.Tensor = module.weight.detach()
    return weight.T if type(module).__name__ == "Conv1D" else weight
