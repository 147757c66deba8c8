"""Full fine-tuning: every weight is trained."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.base import Method, Setting

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Full(Method):
    """All weights are trained, held in float32 and computed in the run's precision.

    In bfloat16 alone an update at a usual rate is smaller than the spacing of the weights and rounds away.
    """

    def load_options(self, compute_dtype: torch.dtype) -> dict[str, Any]:
        """Master weights in float32, whatever the compute dtype."""
        import torch

        return {"dtype": torch.float32}

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Unfreeze everything."""
        model.requires_grad_(True)
        return model

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """All parameters, tied ones once."""
        return sum(parameter.numel() for parameter in model.parameters())

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Load the saved weights into the base model's modules."""
        from safetensors.torch import load_model

        load_model(model, folder / "model.safetensors")
        return model

    def save(self, model: Any, folder: Path) -> None:
        """One safetensors file with every weight."""
        model.save_pretrained(folder, max_shard_size="1TB")

    def merge(self, model: Any) -> Any:
        """The model is plain already."""
        return model
