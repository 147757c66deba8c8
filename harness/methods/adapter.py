"""Bottleneck adapters: small networks inside every layer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

from pydantic import Field

from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.parameter_subset import Partial

if TYPE_CHECKING:
    from transformers import PreTrainedModel

_NAME = "bottleneck"


@dataclass(frozen=True, kw_only=True)
class Adapter(Partial):
    """h + U f(D h), with D (size x width), f a nonlinearity and U (width x size) zero at the start, in every layer.

    `placement`: houlsby, behind the attention's and behind the MLP's last projection (Houlsby et al. 2019, arXiv
    1902.00751, figure 2), or pfeiffer, behind the MLP's alone (Pfeiffer et al. 2020, arXiv 2005.00247). Both before the
    residual is added. Trains 2 x width x size + size + width parameters per adapter, and adds two matrix products in a
    row to each place, which serving pays for as well: it cannot be merged. Houlsby et al. also train the normalizations
    (section 2.1), which stay frozen here.
    """

    mergeable: ClassVar[bool] = False

    placement: Literal["houlsby", "pfeiffer"]
    bottleneck_size: Annotated[int, Field(ge=1)]
    activation: Literal["relu", "gelu", "silu"]

    def prepare(self, model: PreTrainedModel) -> None:
        """Hang an adapter behind each of the modules, under whose names it is saved."""
        import torch
        from transformers.activations import ACT2FN

        for module, width in self._places(model).values():
            device = next(module.parameters()).device
            down = torch.nn.Linear(width, self.bottleneck_size, device=device)
            up = torch.nn.Linear(self.bottleneck_size, width, device=device)
            torch.nn.init.zeros_(up.weight)
            torch.nn.init.zeros_(up.bias)
            module.add_module(_NAME, torch.nn.Sequential(down, ACT2FN[self.activation], up))
            module.register_forward_hook(_add)

    def choose(self, model: PreTrainedModel, setting: Setting) -> list[str]:
        """The adapters."""
        return [name for name, _ in model.named_parameters() if f".{_NAME}." in name]

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """2 x width x size + size + width, summed over the places."""
        size = self.bottleneck_size
        return sum(2 * width * size + size + width for _, width in self._places(model).values())

    def _places(self, model: PreTrainedModel) -> dict[str, tuple[Any, int]]:
        """Module name -> module whose output is adapted, and its width."""
        modules = targets.mlp_outputs(model)
        if self.placement == "houlsby":
            modules = {**targets.attention_outputs(model), **modules}
        places = {name: (module, targets.shape(module)[1]) for name, module in modules.items()}
        if targets.expert_parameters(model):  # the experts' sum is adapted, not each expert
            width = int(model.get_input_embeddings().embedding_dim)
            blocks = {n: m for n, m in model.named_modules() if n.endswith((".mlp", ".block_sparse_moe"))}
            places = {n: p for n, p in places.items() if not n.startswith(tuple(f"{b}." for b in blocks))}
            places |= {name: (module, width) for name, module in blocks.items()}
        if not places:
            existing = ", ".join(sorted({name.rpartition(".")[2] for name, _ in targets.linear_modules(model)}))
            raise ValueError(f"method=adapter: no output projection found among the linear layers: {existing}")
        return places


def _add(module: Any, inputs: Any, output: Any) -> Any:
    """A forward hook: the output with what the adapter makes of it."""
    hidden = output[0] if isinstance(output, tuple) else output
    network = getattr(module, _NAME)
    changed = hidden + network(hidden.to(network[0].weight.dtype)).to(hidden.dtype)
    return (changed, *output[1:]) if isinstance(output, tuple) else changed
