"""LoRA: a low-rank update beside frozen linear layers."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Method, Rank, Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Lora(Method):
    """W x + (lora_alpha / r) B A x, with A (r x d_in) random and B (d_out x r) zero at the start; W is frozen.

    Trains r (d_in + d_out) parameters per adapted matrix. Hu et al. 2021, arXiv 2106.09685, equation 3.
    """

    use_dora: ClassVar[bool] = False

    target: targets.Target
    r: Rank
    lora_alpha: Annotated[float, Field(gt=0)]
    lora_dropout: Annotated[float, Field(ge=0, lt=1)]
    use_rslora: bool  # scale by lora_alpha / sqrt(r): Kalajdzievski 2023, arXiv 2312.03732

    def __post_init__(self) -> None:
        targets.check(self.target)

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap every targeted module."""
        from peft import LoraConfig, get_peft_model

        config = LoraConfig(
            task_type="CAUSAL_LM",
            r=self.r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            use_rslora=self.use_rslora,
            use_dora=self.use_dora,
            target_modules=list(targets.resolve(model, self.target)),
        )
        return get_peft_model(model, config)

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """r (d_in + d_out), summed over the adapted matrices."""
        return sum(self.r * (d_in + d_out) for d_in, d_out in targets.shapes_of(model, self.target).values())
