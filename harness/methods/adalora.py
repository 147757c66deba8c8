"""AdaLoRA: LoRA whose rank budget moves to the layers that need it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Rank, Setting
from harness.methods.contexts import Context, Planned, Sharded, TrainedWith
from harness.methods.peft_adapter import Adapted

if TYPE_CHECKING:
    import torch
    from peft import AdaLoraConfig
    from transformers import PreTrainedModel


_IMPORTANCE = ("ipt", "exp_avg_ipt", "exp_avg_unc")  # of PEFT's allocator: parameter -> tensor
Fraction = Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True, kw_only=True)
class Adalora(Adapted):
    """W x + s P E Q x with E diagonal and zero at the start, whose least important entries are switched off on the way.

    Begins with rank `init_r` in every layer and ends with `r` on average; the schedule is a fraction of the run's own
    steps: nothing is pruned in the first `warmup_fraction`, nothing more in the last `final_fraction`. P and Q are
    pushed towards orthogonality by a penalty, which the reported loss leaves out. Trains init_r (d_in + d_out + 1)
    parameters per adapted matrix, pruned ones included. Zhang et al. 2023, arXiv 2303.10512, equations 3, 4 and 8.
    """

    target: targets.Target
    r: Rank
    init_r: Rank
    lora_alpha: Annotated[float, Field(gt=0)]
    lora_dropout: Fraction
    warmup_fraction: Fraction
    final_fraction: Fraction
    steps_between: Annotated[int, Field(ge=1)]
    orthogonality: Annotated[float, Field(ge=0)]

    def __post_init__(self) -> None:
        targets.check(self.target)
        if self.init_r < self.r:
            raise ValueError(f"method.init_r={self.init_r} is below method.r={self.r}: ranks are pruned, never added")
        if self.warmup_fraction + self.final_fraction >= 1:
            raise ValueError(
                f"method.warmup_fraction={self.warmup_fraction} and method.final_fraction={self.final_fraction} leave "
                "no step to prune in: their sum must be below 1"
            )

    def unsupported(self, context: Context) -> str:
        """Refuse early stopping, whose kept weights would be of another rank than the run ends with, and sharding."""
        match context:
            case TrainedWith(spec) if spec.patience is not None:
                return (
                    f"train.patience={spec.patience} with method=adalora: its ranks follow a schedule over all the "
                    "steps, which cannot be cut short: set it to null"
                )
            case Sharded():
                return "between its steps it looks at whole matrices and their gradients"
            case Planned():
                return (
                    "AdaLoRA's schedule: every step is taken at the first ranks, without the importance of each weight "
                    "that trains (12 bytes)"
                )
        return super().unsupported(context)

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> AdaLoraConfig:
        """Return the configuration, with the schedule in steps of this run."""
        from peft import AdaLoraConfig

        return AdaLoraConfig(
            task_type="CAUSAL_LM",
            target_r=self.r,
            init_r=self.init_r,
            lora_alpha=self.lora_alpha,
            lora_dropout=self.lora_dropout,
            tinit=int(self.warmup_fraction * setting.total_steps),
            tfinal=int(self.final_fraction * setting.total_steps),
            deltaT=self.steps_between,
            orth_reg_weight=self.orthogonality,
            total_step=setting.total_steps,
            target_modules=list(targets.resolve(model, self.target)),
        )

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap the model and freeze the layers' rank counters, which PEFT leaves trainable in bfloat16."""
        adapted = super().attach(model, setting)
        for name, parameter in adapted.named_parameters():
            if ".ranknum." in name:
                parameter.requires_grad_(False)
        return adapted

    def penalty(self, model: Any) -> torch.Tensor:
        """Mean distance of P'P and QQ' from the identity: equation 4 without squares, as PEFT has it."""
        import torch

        matrices = [p for n, p in model.named_parameters() if ".lora_A." in n or ".lora_B." in n]
        narrow = [p if len(p) <= p.shape[1] else p.T for p in matrices]
        distances = [torch.linalg.norm(p @ p.T - torch.eye(len(p), device=p.device)) for p in narrow]
        return self.orthogonality * torch.stack(distances).mean()

    def after_step(self, model: Any, step: int) -> None:
        """Take in the gradients, and prune when the schedule says so."""
        model.base_model.update_and_allocate(step)

    def state(self, model: Any) -> dict[str, Any]:
        """Return the importance of each rank so far, and the ranks that are left after the last pruning."""
        allocator = model.base_model.rankallocator
        importance = {name: getattr(allocator, name) for name in _IMPORTANCE}
        return {"importance": importance, "rank_pattern": _config(model).rank_pattern}

    def load_state(self, model: Any, state: dict[str, Any]) -> None:
        """Restore the importance and the ranks that `state` returned."""
        device = next(model.parameters()).device
        for name, importance in state["importance"].items():
            setattr(model.base_model.rankallocator, name, {of: tensor.to(device) for of, tensor in importance.items()})
        _config(model).rank_pattern = state["rank_pattern"]

    def optimizer_bytes(self, parameter: torch.Tensor) -> int:
        """Return the bytes of AdamW's moments and of the importance, which is in the parameter's dtype as well."""
        return super().optimizer_bytes(parameter) + len(_IMPORTANCE) * int(parameter.nbytes)

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """init_r (d_in + d_out + 1), summed over the adapted matrices."""
        return sum(self.init_r * (d_in + d_out + 1) for d_in, d_out in targets.shapes_of(model, self.target).values())


def _config(model: Any) -> AdaLoraConfig:
    return model.peft_config[model.base_model.trainable_adapter_name]
