"""IA3: learned vectors that scale keys, values and the inside of the MLP."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.contexts import Context, OnModel
from harness.methods.peft_adapter import Adapted

if TYPE_CHECKING:
    from peft import IA3Config
    from transformers import PreTrainedModel


@dataclass(frozen=True, kw_only=True)
class Ia3(Adapted):
    """Keys and values are multiplied by a vector each, and so is what enters the MLP's last projection; all start at 1.

    Trains d_out parameters per key and value projection and d_in per last projection of an MLP. Where queries, keys and
    values are one projection, all of its output is scaled. Liu et al. 2022, arXiv 2205.05638, section 3.3.
    """

    leaves_inputs: ClassVar[bool] = True

    def unsupported(self, context: Context) -> str:
        """Refuse a model whose experts are parameters: what enters their last projections could not be scaled."""
        match context:
            case OnModel(model) if targets.expert_parameters(model):
                return (
                    "method=ia3 scales what enters the last projection of every MLP, and this "
                    f"{model.config.model_type} model holds those of its experts in three-dimensional parameters"
                )
        return super().unsupported(context)

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> IA3Config:
        """Keys, values and the MLPs' last projections, found by structure."""
        from peft import IA3Config

        attention, mlp = _scaled(model)
        return IA3Config(task_type="CAUSAL_LM", target_modules=[*attention, *mlp], feedforward_modules=list(mlp))

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """d_out of keys and values, d_in of the MLPs' last projections."""
        attention, mlp = _scaled(model)
        outputs = sum(targets.shape(module)[1] for module in attention.values())
        return outputs + sum(targets.shape(module)[0] for module in mlp.values())


def _scaled(model: PreTrainedModel) -> tuple[dict[str, Any], dict[str, Any]]:
    attention, mlp = targets.key_value(model), targets.mlp_outputs(model)
    if not attention:
        existing = ", ".join(sorted({name.rpartition(".")[2] for name, _ in targets.linear_modules(model)}))
        raise ValueError(f"method=ia3: no key or value projection found among the linear layers: {existing}")
    return attention, mlp
