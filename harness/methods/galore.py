"""GaLore: full training whose gradients are projected to a low rank before Adam sees them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Rank
from harness.methods.contexts import Context, InProcesses, Planned, Sharded, TrainedWith
from harness.methods.full import Full

if TYPE_CHECKING:
    import torch

    from harness.records.settings import TrainSpec


@dataclass(frozen=True, kw_only=True)
class Galore(Full):
    """Every weight trains; of the targeted matrices Adam keeps the moments of P'G (r x n), not those of G (m x n).

    P holds the gradient's largest singular vectors and is computed anew every `update_proj_gap` steps, which takes a
    full singular value decomposition of each matrix, in a step that is timed: at 7 billion parameters minutes, by the
    number of operations (not measured on a GPU). The update is multiplied by `scale`. Saves optimizer memory alone.
    `layerwise` updates each weight during the backward pass and frees its gradient, so that there is never more than
    one: gradients can then be neither accumulated, nor shared among GPUs, nor clipped by their common norm. Zhao et al.
    2024, arXiv 2403.03507, algorithm 2; the authors' own galore-torch.
    """

    target: targets.Target
    r: Rank
    update_proj_gap: Annotated[int, Field(ge=1)]
    scale: Annotated[float, Field(gt=0)]
    layerwise: bool = False

    def __post_init__(self) -> None:
        targets.check(self.target)

    def training(self, spec: TrainSpec) -> TrainSpec:
        """Turn gradient clipping off for layerwise updates."""
        return replace(spec, max_grad_norm=None) if self.layerwise else spec

    def unsupported(self, context: Context) -> str:
        """Refuse sharding, and accumulation and several processes where updates are layerwise.

        A layerwise update frees each gradient before it could be added to another or shared.
        """
        match context:
            case TrainedWith(spec) if self.layerwise and spec.micro_batch_size != spec.global_batch_size:
                return super().unsupported(context) or (
                    f"method.layerwise=true with train.micro_batch_size={spec.micro_batch_size} and "
                    f"train.global_batch_size={spec.global_batch_size}: layerwise GaLore cannot accumulate gradients; "
                    "make the two equal, or use method.layerwise=false"
                )
            case InProcesses(number) if self.layerwise:
                return (
                    f"method.layerwise=true with launch.num_processes={number}: layerwise GaLore cannot share "
                    "gradients; use one process, or method.layerwise=false"
                )
            case Sharded():
                return "it projects to singular vectors of whole gradients"
            case Planned():
                return "GaLore's projections: the singular value decompositions and what they take"
        return super().unsupported(context)

    def attach(self, model: Any, setting: Any) -> Any:
        """Unfreeze everything; the target must exist."""
        targets.resolve(model, self.target)
        return super().attach(model, setting)

    def param_groups(self, model: Any, lr: float, weight_decay: float) -> list[dict[str, Any]]:
        """Return the usual groups, with the targeted matrices in groups of their own."""
        projected = {id(module.weight) for module in targets.resolve(model, self.target).values()}
        rule = {"rank": self.r, "update_proj_gap": self.update_proj_gap, "scale": self.scale, "proj_type": "std"}
        groups = []
        for group in super().param_groups(model, lr, weight_decay):
            groups.append({**group, "params": [p for p in group["params"] if id(p) not in projected]})
            groups.append({**group, **rule, "params": [p for p in group["params"] if id(p) in projected]})
        return [group for group in groups if group["params"]]

    def optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return full fine-tuning's optimizer, or one that steps during the backward pass."""
        if not self.layerwise:
            return super().optimizer(groups)
        from harness.methods.optimizers import PerParameterOptimizer

        master = self.precision == "bf16_fp32_master"
        return PerParameterOptimizer(groups, self.plain_optimizer, master=master, in_backward=True)

    def master_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return a separate optimizer for each float32 copy, which has to be a matrix."""
        from harness.methods.optimizers import PerParameterOptimizer

        return PerParameterOptimizer(groups, self.plain_optimizer, master=True, in_backward=False)

    def plain_optimizer(self, groups: list[dict[str, Any]]) -> torch.optim.Optimizer:
        """Return GaLore's AdamW, with the constants of the AdamW that it is compared with."""
        from harness.methods.optimizers import galore

        return galore(groups)
