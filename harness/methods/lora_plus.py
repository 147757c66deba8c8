"""LoRA+: LoRA whose B learns faster than its A."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any

from pydantic import Field

from harness.methods.lora import Lora


@dataclass(frozen=True, kw_only=True)
class LoraPlus(Lora):
    """LoRA in which B's rate is `ratio` times A's, which is `lr`; costs what LoRA costs.

    With one rate for both, B learns too slowly in wide models. Hayou et al. 2024, arXiv 2402.12354, section 4.
    """

    ratio: Annotated[float, Field(ge=1, allow_inf_nan=False)]

    def param_groups(self, model: Any, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the usual groups, with the B matrices in groups of their own."""
        fast = {id(p) for name, p in model.named_parameters() if ".lora_B." in name or ".lora_embedding_B." in name}
        groups = []
        for group in super().param_groups(model, lr, weight_decay):
            for factor, is_fast in ((1.0, False), (self.ratio, True)):
                params = [p for p in group["params"] if (id(p) in fast) == is_fast]
                groups.append({**group, "params": params, "lr": lr * factor})
        return [group for group in groups if group["params"]]
