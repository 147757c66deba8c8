"""LoRA and QLoRA through unsloth's own model code."""

from __future__ import annotations

from dataclasses import dataclass, replace
from importlib.util import find_spec
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.contexts import Context, InProcesses, OnDevice, Planned, Served, TrainedWith
from harness.methods.lora import Lora
from harness.methods.peft_adapter import on_meta
from harness.methods.qlora import in_four_bits
from harness.records.settings import KernelSpec, TrainSpec

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Unsloth(Lora):
    """LoRA (quantization=none) or QLoRA (quantization=nf4) on unsloth's rewritten kernels, which need CUDA and the
    extra package.

    Trains what LoRA trains and is saved as an ordinary LoRA adapter; the rewritten layers round differently, so that
    step 0 is the base's up to that. https://github.com/unslothai/unsloth.
    """

    leaves_inputs: ClassVar[bool] = False
    differs_at_start: ClassVar[str] = (
        "unsloth's kernels round differently, and quantization=nf4 rounds the base's weights"
    )
    inits: ClassVar[tuple[str, ...]] = ("default",)
    imports_first: ClassVar[tuple[str, ...]] = ("unsloth",)  # it replaces classes that others derive from

    quantization: Literal["none", "nf4"]

    def unsupported(self, context: Context) -> str:
        """Refuse a CPU, other kernels, several processes, and to serve an adapter of a quantized base."""
        match context:
            case OnDevice(device) if device != "cuda":
                return "method=unsloth needs a CUDA device"
            case OnDevice() if find_spec("unsloth") is None:
                return "method=unsloth needs the package unsloth: pip install 'harness[unsloth]'"
            case TrainedWith(spec) if spec.kernels not in (KernelSpec(), KernelSpec(liger=False)):
                return "method=unsloth with train.kernels: its kernels are its own; leave train.kernels as it is"
            case InProcesses(number):
                return (
                    f"method=unsloth with launch.num_processes={number}: its kernels are for one GPU; use one process"
                )
            case Planned():
                return "unsloth's kernels: the step is that of LoRA with PEFT"
            case Served() if self.quantization != "none":
                own = super().unsupported(context)
                return own or f"its base is quantized (method.quantization={self.quantization})"
        return super().unsupported(context)

    def training(self, spec: TrainSpec) -> TrainSpec:
        """Turn Liger off if it is `auto`: unsloth has kernels of its own."""
        return replace(spec, kernels=replace(spec.kernels, liger=False)) if spec.kernels.liger == "auto" else spec

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Return LoRA's options or QLoRA's, with the settings by which unsloth quantizes."""
        if self.quantization == "none":
            return super().load_options(compute_dtype)
        return in_four_bits(self.quantization, double=True, compute_dtype=compute_dtype)

    def read(self, name: str, **options: Any) -> PreTrainedModel:
        """Load the base through unsloth's loader, which also loads a tokenizer that is not used.

        By itself it would take a copy of its own in place of a known name, cut rows after 2,048 tokens, and offload
        what gradient checkpointing keeps.
        """
        from transformers import AutoConfig
        from unsloth import FastLanguageModel

        where = {option: options[option] for option in ("revision", "trust_remote_code") if option in options}
        context = getattr(AutoConfig.from_pretrained(name, **where), "max_position_embeddings", None)
        taken = {option: options[option] for option in ("dtype", "device_map") if option in options}
        model: PreTrainedModel = FastLanguageModel.from_pretrained(
            model_name=name,
            load_in_4bit="quantization_config" in options,
            max_seq_length=context,
            use_exact_model_name=True,
            use_gradient_checkpointing=False,
            **where,
            **taken,
        )[0]
        return model

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Attach LoRA through unsloth. Without weights attach PEFT's, which has the same parameters."""
        modules = targets.resolve(model, self.target)
        if on_meta(model):
            return super().attach(model, setting)
        from unsloth import FastLanguageModel

        return FastLanguageModel.get_peft_model(
            model,
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            bias=self.bias,
            target_modules=sorted({name.rpartition(".")[2] for name in modules}),
            use_gradient_checkpointing=False,
            random_state=setting.seed,
        )
