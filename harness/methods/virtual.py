"""What the methods have in common that put trained vectors in front of every row."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import Field

from harness.methods.adapted import Adapted
from harness.methods.base import Setting

if TYPE_CHECKING:
    from transformers import PreTrainedModel

Tokens = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class Virtual(Adapted):
    """Virtual tokens, which take their place in the model's context, and cannot be folded into its weights."""

    merges: ClassVar[bool] = False
    unpacked_because: ClassVar[str] = "virtual tokens stand in front of a row, not of each example in it"

    num_virtual_tokens: Tokens

    def attach(self, model: PreTrainedModel, setting: Setting) -> Any:
        """Wrap the model, if the longest row and the virtual tokens fit into its context together.

        Raises:
            ValueError: they do not.
        """
        context = getattr(model.config, "max_position_embeddings", None)
        if context is not None and setting.max_length + self.num_virtual_tokens > context:
            raise ValueError(
                f"train.max_length={setting.max_length} and method.num_virtual_tokens={self.num_virtual_tokens} make "
                f"{setting.max_length + self.num_virtual_tokens} tokens, the model takes {context}: lower one of them"
            )
        return super().attach(model, setting)
