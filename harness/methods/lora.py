"""LoRA: a low-rank update beside frozen linear layers."""

from __future__ import annotations

import dataclasses
import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Rank, Setting
from harness.methods.contexts import Context, Served, Sharded
from harness.methods.peft_adapter import Adapted, on_meta

if TYPE_CHECKING:
    from peft import LoraConfig
    from transformers import PreTrainedModel

    from harness.methods.base import Method

_EVA_BATCH = 16  # rows per forward pass while the activations are looked at


@dataclass(frozen=True, kw_only=True)
class Lora(Adapted):
    """W x + (lora_alpha / r) B A x, with A (r x d_in) random and B (d_out x r) zero at the start; W is frozen.

    Trains r (d_in + d_out) parameters per adapted matrix. Hu et al. 2021, arXiv 2106.09685, equation 3. Experts held in
    one three-dimensional parameter have an A and a B each.

    `init_lora_weights`: default (A uniform, Kaiming), gaussian (A normal, as in the paper); pissa (A and B are W's
    largest singular vectors and W what is left of it: Meng et al. 2024, arXiv 2404.02948) and olora (the same by QR:
    Bueyuekakyuez 2024,
    arXiv 2406.01775), which want a rate 10 to 18 times lower, and leave the base at step 0 as it was up to rounding;
    both decompose every matrix in full while loading, which is no step's time;
    eva (A holds the main directions of the layer's inputs on the training rows: Paischer et al. 2024, arXiv
    2410.07170, with the same rank everywhere). `bias`: which biases of the base train beside: none, those of the
    adapted layers (lora_only) or all.
    """

    leaves_inputs: ClassVar[bool] = True
    use_dora: ClassVar[bool] = False
    # file of the method with the same settings and a base in 4 bits; each class says it for itself, none inherits it
    quantized_as: ClassVar[str | None] = "qlora"
    inits: ClassVar[tuple[str, ...]] = ("default", "gaussian", "pissa", "olora", "eva")

    target: targets.Target
    r: Rank
    lora_alpha: Annotated[float, Field(gt=0)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool  # scale by lora_alpha / sqrt(r): Kalajdzievski 2023, arXiv 2312.03732
    init_lora_weights: Literal["default", "gaussian", "pissa", "olora", "loftq", "eva"]
    bias: Literal["none", "lora_only", "all"]

    def __post_init__(self) -> None:
        targets.check(self.target)
        if self.init_lora_weights not in self.inits:
            hint = "; LoftQ makes up for quantization: use method=qlora" if self.init_lora_weights == "loftq" else ""
            raise ValueError(
                f"method.init_lora_weights={self.init_lora_weights}: method={self.name} allows "
                f"{', '.join(self.inits)}{hint}"
            )

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> LoraConfig:
        """Return the configuration of the targeted modules and experts, initialized as set if there are weights."""
        from peft import LoraConfig

        modules, experts = targets.resolve_all(model, self.target)
        self._check_experts(experts)
        check_rank(self.r, self.init_lora_weights, modules)
        return LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            bias=self.bias,
            target_modules=list(modules),
            target_parameters=list(experts) or None,
            init_lora_weights=True if on_meta(model) else self._peft_init(),
            **self.more_options(model, setting),
        )

    def more_options(self, model: PreTrainedModel, setting: Setting) -> dict[str, Any]:
        """Return further arguments of `LoraConfig`."""
        if self.init_lora_weights != "eva" or on_meta(model):
            return {}
        from peft import EvaConfig

        return {"eva_config": EvaConfig(rho=1.0, use_label_mask=False)}  # rho above 1 moves ranks between layers

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap every targeted module; for `eva`, look at the activations of the training rows first."""
        adapted = super().attach(model, setting)
        if self.init_lora_weights == "eva" and not on_meta(model):
            _look_at_activations(adapted, setting)
        return adapted

    def unsupported(self, context: Context) -> str:
        """Refuse sharding with an initialization that reads whole weights, and a server for more than A and B."""
        match context:
            case Sharded() if self.init_lora_weights not in ("default", "gaussian"):
                return (
                    f"method.init_lora_weights={self.init_lora_weights} computes with whole weights first; "
                    "method.init_lora_weights=default does not"
                )
            case Served():
                return self._unserved()
        return super().unsupported(context)

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """r (d_in + d_out), summed over the adapted matrices, and the biases that train."""
        modules, experts = targets.resolve_all(model, self.target)
        dense = sum(self.r * sum(targets.shape(module)) for module in modules.values())
        stacked = sum(self.r * number * (d_in + d_out) for number, d_in, d_out in experts.values())
        return dense + stacked + self._biases(model, modules)

    def quantized(self) -> Method | None:
        """Return the same settings with a base in 4 bits; None if there is no such method or it lacks the init."""
        name = vars(type(self)).get("quantized_as")
        if name is None:
            return None
        kind = getattr(importlib.import_module(f"harness.methods.{name}"), name.capitalize())
        if self.init_lora_weights not in kind.inits:
            return None
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(Lora)}
        method: Method = kind(**fields, quantization="nf4", double_quantization=True, optimizer_name="adamw")
        return method

    def _unserved(self) -> str:
        """Return why a server that adds A and B to the published weights cannot serve the result; "" if it can."""
        if self.use_dora:
            return "it trains magnitudes beside A and B"
        if self.bias != "none":
            return f"it trains biases (method.bias={self.bias})"
        if self.init_lora_weights not in ("pissa", "olora", "loftq"):
            return ""
        return (
            "its A and B belong to other weights than those published "
            f"(method.init_lora_weights={self.init_lora_weights})"
        )

    def _biases(self, model: PreTrainedModel, modules: dict[str, Any]) -> int:
        if self.bias == "all":
            return sum(p.numel() for name, p in model.named_parameters() if "bias" in name)
        if self.bias == "none":
            return 0
        biases = (getattr(module, "bias", None) for module in modules.values())
        return sum(bias.numel() for bias in biases if bias is not None)

    def _peft_init(self) -> bool | str:
        # loftq replaces A and B once the layers are there
        return {"default": True, "loftq": True}.get(self.init_lora_weights, self.init_lora_weights)

    def _check_experts(self, experts: dict[str, Any]) -> None:
        changed = ["DoRA"] if self.use_dora else []
        if self.lora_dropout:
            changed.append(f"method.lora_dropout={self.lora_dropout}")
        if self.init_lora_weights not in ("default", "gaussian"):
            changed.append(f"method.init_lora_weights={self.init_lora_weights}")
        if experts and changed:
            raise ValueError(
                f"target={self.target} covers experts that are three-dimensional parameters, which cannot be adapted "
                f"with {', '.join(changed)}: use target=attention, or plain LoRA without dropout"
            )


FROM_SINGULAR_VECTORS = ("pissa", "olora", "eva", "loftq", "corda")  # and PEFT's spellings that begin so


def check_rank(r: int, init: str, modules: Mapping[str, Any]) -> None:
    """Refuse a rank above the sides of a matrix, where A and B begin as its singular vectors: there are no more.

    PEFT then trains matrices of a lower rank than the one that is set. OLoRA is refused on transposed weights.

    Raises:
        ValueError: names the smallest matrix, or a transposed one.
    """
    if not init.startswith(FROM_SINGULAR_VECTORS) or not modules:
        return
    transposed = [name for name, module in modules.items() if type(module).__name__ == "Conv1D"]
    if init == "olora" and transposed:
        raise ValueError(
            f"init=olora: {transposed[0]} holds its weight transposed (Conv1D), and PEFT decomposes it as it lies, so "
            "that A and B would not fit; use pissa or the default initialization"
        )
    name, (d_in, d_out) = min(((n, targets.shape(m)) for n, m in modules.items()), key=lambda pair: min(pair[1]))
    if r > min(d_in, d_out):
        raise ValueError(
            f"method.r={r} with init={init}: {name} is a matrix of {d_out} x {d_in}, which has {min(d_in, d_out)} "
            f"singular vectors; use method.r={min(d_in, d_out)} or less, another target, or the default initialization"
        )


def _look_at_activations(adapted: Any, setting: Setting) -> None:
    """EVA: singular vectors of what reaches each layer, over as many rows as it takes to settle."""
    import torch
    from peft.tuners.lora.eva import initialize_lora_eva_weights

    if not setting.rows:
        raise ValueError("method.init_lora_weights=eva: there are no training rows to look at")
    device = next(adapted.parameters()).device
    pad = setting.tokenizer.pad_token_id
    batches = []
    for start in range(0, len(setting.rows), _EVA_BATCH):
        ids = [row["input_ids"] for row in setting.rows[start : start + _EVA_BATCH]]
        longest = max(map(len, ids))
        padded = torch.tensor([row + [pad] * (longest - len(row)) for row in ids], device=device)
        mask = torch.tensor([[1] * len(row) + [0] * (longest - len(row)) for row in ids], device=device)
        batches.append({"input_ids": padded, "attention_mask": mask})
    initialize_lora_eva_weights(adapted, dataloader=batches, show_progress_bar=False)
