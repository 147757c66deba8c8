"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from harness.methods.base import Method, Setting
from harness.methods.contexts import Context, TrainedWith

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


BFLOAT16 = ("bf16_fp32_master", "bf16")  # the precisions that hold the weights in bfloat16


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """All weights are trained, and computed in the run's precision. `precision` says what they are held in.

    `fp32`: weights, gradients and AdamW's moments in float32, 16 bytes a parameter. `bf16_fp32_master`: weights and
    gradients in bfloat16, and a float32 copy that the optimizer works on and they are rounded from, 16 bytes as well,
    but faster to read; gradients of several micro batches add up in bfloat16. `bf16`: everything in bfloat16, 8 bytes,
    where an update at a usual rate is smaller than the spacing of the weights and rounds away. `auto`: on a GPU that
    computes in bfloat16 `bf16_fp32_master`, else `fp32`.
    """

    precision: Literal["auto", "bf16_fp32_master", "bf16", "fp32"] = "fp32"  # what records from before the field had

    def settled(self, device: str, precision: str) -> Method:
        """Return the method with `auto` resolved for the device and the run's precision."""
        if self.precision != "auto":
            return self
        on_gpu = device == "cuda" and precision == "bf16"
        return replace(self, precision="bf16_fp32_master" if on_gpu else "fp32")

    def unsupported(self, context: Context) -> str:
        """Refuse to compute in float32 with weights held in bfloat16."""
        match context:
            case TrainedWith(spec) if self.precision in BFLOAT16 and spec.precision == "fp32":
                return (
                    f"method.precision={self.precision} with train.precision=fp32: weights held in bfloat16 are "
                    "computed in it; use train.precision=bf16, or method.precision=fp32"
                )
        return super().unsupported(context)

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Return the dtype that the weights are held in, whatever the compute dtype."""
        import torch

        return {"dtype": torch.bfloat16 if self.precision in BFLOAT16 else torch.float32}

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Unfreeze everything."""
        model.requires_grad_(True)
        return model

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """All parameters, tied ones once."""
        return sum(parameter.numel() for parameter in model.parameters())

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the plain optimizer, or one over float32 copies where there is a master."""
        if self.precision != "bf16_fp32_master":
            return self.plain_optimizer(groups)
        return self.master_optimizer(groups)

    def master_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over tensors in bfloat16, with float32 copies."""
        from harness.methods.optimizers import MasterAdamW

        return MasterAdamW(groups)

    def plain_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return the optimizer over tensors that are updated in the dtype they are held in."""
        return super().optimizer(groups)

    def optimizer_bytes(self, parameter: torch.Tensor) -> int:
        """A master copy and its two moments are in float32."""
        is_master = self.precision == "bf16_fp32_master"
        return 12 * parameter.numel() if is_master else super().optimizer_bytes(parameter)

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Load the saved weights into the base model's modules."""
        from safetensors.torch import load_model

        load_model(model, folder / "model.safetensors")
        return model

    def save(self, model: Any, folder: Path) -> None:
        """One safetensors file with every weight."""
        model.save_pretrained(folder, max_shard_size="1TB")

    def merge(self, model: Any) -> Any:
        """Return the model, which is plain already."""
        return model
