"""Base class of the methods that put trained vectors in front of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness.methods.base import Setting
from harness.methods.contexts import Context, Packed, Sharded
from harness.methods.peft_adapter import Adapted, on_meta

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

Tokens = Annotated[int, Field(ge=1)]
BESIDE_A_ROW = "virtual tokens stand in front of a row, not of each example in it"  # why rows cannot be packed


@dataclass(frozen=True, kw_only=True)
class Virtual(Adapted):
    """Virtual tokens, which take their place in the model's context, and cannot be folded into its weights."""

    mergeable: ClassVar[bool] = False

    in_every_layer: ClassVar[bool] = False  # True: the vectors are keys and values; False: embeddings

    num_virtual_tokens: Tokens

    def unsupported(self, context: Context) -> str:
        """Refuse packing and sharding.

        Scoring calls the inner model behind the virtual tokens, past the hooks that gather the model's shards.
        """
        match context:
            case Packed():
                return BESIDE_A_ROW
            case Sharded():
                return "its virtual tokens are put in front of the model from outside it"
        return super().unsupported(context)

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap the model, if the longest row and the virtual tokens fit into its context together.

        Raises:
            ValueError: they do not.
        """
        check_context(model.config, setting.max_length, self.num_virtual_tokens)
        return super().attach(model, setting)

    def saved(self, model: Any) -> dict[str, torch.Tensor]:
        """Return the vectors alone, without the network that makes them.

        PEFT copies them, which the meta device refuses.
        """
        import torch

        if not on_meta(model):
            return super().saved(model)
        config = model.active_peft_config
        layers = 2 * config.num_layers if self.in_every_layer else 1  # a key and a value each
        shape = (config.num_virtual_tokens, layers * config.token_dim)
        return {"prompt_embeddings": torch.empty(shape, dtype=torch.float32, device="meta")}


def check_context(config: Any, max_length: int, num_virtual_tokens: int) -> None:
    """Refuse rows that do not fit into the model's context together with the virtual tokens.

    Raises:
        ValueError: names both numbers, and what the model takes.
    """
    context = getattr(config, "max_position_embeddings", None)
    if context is not None and max_length + num_virtual_tokens > context:
        raise ValueError(
            f"train.max_length={max_length} and method.num_virtual_tokens={num_virtual_tokens} make "
            f"{max_length + num_virtual_tokens} tokens, the model takes {context}: lower one of them"
        )
