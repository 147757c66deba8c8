"""Keys and values before every row of a batch, computed once: a method's virtual tokens and a shared beginning."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from harness.train.loss import only_at

_CACHE_NAMES = ("cache", "past_key_values")  # from transformers 5.24 on, and before it


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix, and the model that continues behind them."""

    model: Any  # takes the rows; for a model with virtual tokens this is the model inside, without them
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # per layer keys and values: (1, heads, tokens, head size)

    def __len__(self) -> int:
        return int(self.layers[0][0].shape[-2]) if self.layers else 0

    def inputs(self) -> dict[str, Cache]:
        """Return the cache to pass to the model with a batch of rows; {} if there is no prefix."""
        layers = [_Frozen(keys, values) for keys, values in self.layers]
        return {_cache_argument(self.model): Cache(layers=layers)} if layers else {}

    @staticmethod
    def of(model: Any, tokens: tuple[int, ...]) -> Prefix:
        """Run `model` over the tokens once.

        Raises:
            TypeError: the model keeps something other than the keys and values of all tokens.
        """
        inner = _without_virtual_tokens(model)
        if not tokens and inner is model:
            return Prefix(model, ())
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor(
            [tokens or (0,)], device=device
        )  # behind virtual tokens alone, a token that is cut off again
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        with only_at(inner, nothing):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
        cache = next(output[name] for name in _CACHE_NAMES if name in output)
        if {type(layer) for layer in cache.layers} != {DynamicLayer}:
            raise TypeError(f"the model keeps {cache}, and not the keys and values of all tokens")
        kept = cache.get_seq_length() - (0 if tokens else 1)
        return Prefix(inner, tuple((layer.keys[..., :kept, :], layer.values[..., :kept, :]) for layer in cache.layers))


def _cache_argument(model: Any) -> str:
    """Return the name under which a model takes keys and values; of a PEFT model the one of the model inside."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = inspect.signature(inner.forward).parameters
    return next((name for name in _CACHE_NAMES if name in taken), _CACHE_NAMES[-1])


def _without_virtual_tokens(model: Any) -> Any:
    """Return the model inside a PEFT model that prepends virtual tokens; otherwise the model itself."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model


class _Frozen(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of a prefix. They are prepended to those of any batch and never grow."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = (key_states.shape[0], -1, -1, -1)
        keys = torch.cat([self.keys.expand(size), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(size), value_states], dim=-2)
