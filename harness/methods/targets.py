"""Which modules a method adapts: presets, a list of names, or a regular expression, resolved against a real model.

Presets are found by structure and not from a table of architectures: a projection belongs to the attention or to the
MLP by the module it lies in, so that fused (GPT-NeoX, Phi-3) and transposed (GPT-2) projections are found as well.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from typing import Any

PRESETS = ("attention_qv", "attention", "mlp", "all_linear")
Target = str | tuple[str, ...]

_ATTENTION = re.compile(r"(^|\.)(self_attn|self_attention|attn|attention)\.", re.IGNORECASE)
_QUERY_VALUE = re.compile(r"(^|\.)(q_proj|v_proj|c_attn|query_key_value|qkv_proj|query|value)$")


def check(target: Target) -> None:
    """Refuse what can be seen to be wrong without a model.

    Raises:
        ValueError: an unknown preset, an empty list or an expression that does not compile.
    """
    if isinstance(target, tuple):
        if not target:
            raise ValueError(f"target=[]: name at least one module, or use a preset: {', '.join(PRESETS)}")
    elif target.startswith("re:"):
        try:
            re.compile(target[3:])
        except re.error as error:
            raise ValueError(f"target={target}: not a regular expression ({error})") from error
    elif target not in PRESETS:
        raise ValueError(
            f"target={target}: not a preset. Allowed: {', '.join(PRESETS)}, a list such as [q_proj,v_proj], "
            f"or an expression such as 're:.*_proj'"
        )


def resolve(model: Any, target: Target) -> dict[str, Any]:
    """The linear modules of `model` that `target` names: full module name -> module, in the model's order.

    Raises:
        ValueError: nothing matches, or a name of a list matches nothing; lists the names that exist.
    """
    check(target)
    linear = dict(linear_modules(model))
    if isinstance(target, tuple):
        found = {n: m for n, m in linear.items() if any(_is_named(n, name) for name in target)}
        missing = [name for name in target if not any(_is_named(n, name) for n in linear)]
    elif target.startswith("re:"):
        found = {n: m for n, m in linear.items() if re.fullmatch(target[3:], n)}
        missing = []
    else:
        found = {n: m for n, m in linear.items() if _in_preset(n, target)}
        missing = []
    if missing or not found:
        shown = target if isinstance(target, str) else f"[{','.join(target)}]"
        what = f"{', '.join(missing)} of it matches" if missing and found else "it matches"
        raise ValueError(
            f"target={shown}: {what} no linear module of this model. Its linear modules: {_summary(linear)}. "
            f"Presets: {', '.join(PRESETS)}"
        )
    return found


def linear_modules(model: Any) -> list[tuple[str, Any]]:
    """Every linear layer but the output head, which no method adapts unless it names it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [(name, module) for name, module in model.named_modules() if _is_linear(module) and module is not head]


def shape(module: Any) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer; GPT-2's Conv1D keeps its weight transposed, 4-bit weights are packed."""
    if type(module).__name__ == "Conv1D":
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return int(module.in_features), int(module.out_features)


def shapes_of(model: Any, target: Target) -> dict[str, tuple[int, int]]:
    """Module name -> (d_in, d_out) of the modules that `target` names."""
    return {name: shape(module) for name, module in resolve(model, target).items()}


def _is_linear(module: Any) -> bool:
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _is_named(full_name: str, name: str) -> bool:
    return full_name == name or full_name.endswith("." + name)


def _in_preset(name: str, preset: str) -> bool:
    attention = bool(_ATTENTION.search(name))
    if preset == "attention_qv":
        return attention and bool(_QUERY_VALUE.search(name))
    return {"attention": attention, "mlp": not attention, "all_linear": True}[preset]


def _summary(linear: Mapping[str, Any]) -> str:
    """Last parts of the names with their counts: `q_proj (30), v_proj (30)`."""
    counts = Counter(name.rpartition(".")[2] for name in linear)
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"
