"""Modules that a method adapts: a preset, a list of names or a regular expression, resolved against a real model.

The modules found are written as patterns, such as `layers.{0..31}.q_proj`.

Presets are defined by structure and not by a table of architectures. A projection belongs to the attention or to the
MLP by the module that contains it, so that fused (GPT-NeoX, Phi-3) and transposed (GPT-2) projections are covered.
Where queries, keys and values are one projection, `attention_qv` is that projection. The experts of a
mixture-of-experts model are one three-dimensional parameter and no linear layer: they belong to the MLP, and a method
either adapts them as parameters or refuses.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

PRESETS = ("attention_qv", "attention", "mlp", "all_linear")
Target = str | tuple[str, ...]

_ATTENTION = re.compile(r"(^|\.)(self_attn|self_attention|attn|attention|linear_attn)\.", re.IGNORECASE)
_ROUTER = re.compile(r"(^|\.)(gate|router|shared_expert_gate)$")  # selects experts; no preset covers it
_LAYER = re.compile(r"\.\d+\.")
_FUSED = r"c_attn|query_key_value|qkv_proj|Wqkv|qkv"
_QUERY_VALUE = re.compile(rf"(^|\.)(q_proj|v_proj|query|value|{_FUSED})$")
_KEY_VALUE = re.compile(rf"(^|\.)(k_proj|v_proj|key|value|{_FUSED})$")
_OUTPUT = re.compile(r"(^|\.)(o_proj|out_proj|c_proj|dense|down_proj|fc2|fc_out|w2|wo|dense_4h_to_h|out_lin|lin2)$")


def check(target: Target) -> None:
    """Refuse a target that is wrong for any model.

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
    """Return the linear modules of `model` that `target` names: full module name -> module, in the model's order.

    Raises:
        ValueError: nothing matches, or a name of a list matches nothing; lists the names that exist. Or the target
            covers experts, which are no modules.
    """
    modules, experts = resolve_all(model, target)
    if experts:
        raise ValueError(
            f"target={_shown(target)}: it covers experts that are three-dimensional parameters "
            f"({_summary(experts)}), which this method cannot adapt: use target=attention, or method=lora"
        )
    return modules


def resolve_all(model: Any, target: Target) -> tuple[dict[str, Any], dict[str, tuple[int, int, int]]]:
    """Return `resolve`'s modules, and the experts that `target` covers: parameter name -> (experts, d_in, d_out)."""
    check(target)
    linear, experts = dict(linear_modules(model)), expert_parameters(model)
    names = [*linear, *experts]
    missing: list[str] = []
    if isinstance(target, tuple):
        matched = {n for n in names if any(_is_named(n, name) for name in target)}
        missing = [name for name in target if not any(_is_named(n, name) for n in names)]
    elif target.startswith("re:"):
        matched = {n for n in names if re.fullmatch(target[3:], n)}
    else:
        matched = {n for n in names if _in_preset(n, target)}
    if missing or not matched:
        what = f"{', '.join(missing)} of it matches" if missing and matched else "it matches"
        raise ValueError(
            f"target={_shown(target)}: {what} no linear module of this model. Its linear modules: "
            f"{_summary(names)}. Presets: {', '.join(PRESETS)}"
        )
    return {n: m for n, m in linear.items() if n in matched}, {n: s for n, s in experts.items() if n in matched}


def linear_modules(model: Any) -> list[tuple[str, Any]]:
    """Return every linear layer but the output head, which no method adapts unless it names it."""
    head = model.get_output_embeddings() if hasattr(model, "get_output_embeddings") else None
    return [(name, module) for name, module in model.named_modules() if is_linear(module) and module is not head]


def expert_parameters(model: Any) -> dict[str, tuple[int, int, int]]:
    """Return parameters that hold one matrix per expert: name -> (experts, and the two sides of each matrix)."""
    stacked = ((n, p) for n, p in model.named_parameters() if p.dim() == 3 and re.search(r"(^|\.)experts\.", n))
    return {n: (int(p.shape[0]), int(p.shape[2]), int(p.shape[1])) for n, p in stacked}


def key_value(model: Any) -> dict[str, Any]:
    """Return the attention's key and value projections, or fused ones that contain them."""
    return {n: m for n, m in linear_modules(model) if _ATTENTION.search(n) and _KEY_VALUE.search(n)}


def attention_outputs(model: Any) -> dict[str, Any]:
    """Return the last projection of each attention block."""
    return {n: m for n, m in linear_modules(model) if _ATTENTION.search(n) and _OUTPUT.search(n)}


def mlp_outputs(model: Any) -> dict[str, Any]:
    """Return the last projection of each MLP."""
    return {n: m for n, m in linear_modules(model) if _in_preset(n, "mlp") and _OUTPUT.search(n)}


def norms(model: Any) -> dict[str, Any]:
    """Return every normalization that has a weight."""
    return {n: m for n, m in model.named_modules() if _is_norm(m)}


def shape(module: Any) -> tuple[int, int]:
    """(d_in, d_out) of a linear layer; GPT-2's Conv1D keeps its weight transposed, 4-bit weights are packed."""
    if type(module).__name__ == "Conv1D":
        return int(module.weight.shape[0]), int(module.weight.shape[1])
    return int(module.in_features), int(module.out_features)


def shapes_of(model: Any, target: Target) -> dict[str, tuple[int, int]]:
    """Module name -> (d_in, d_out) of the modules that `target` names."""
    return {name: shape(module) for name, module in resolve(model, target).items()}


def is_linear(module: Any) -> bool:
    """Return whether a module is a matrix as LoRA adapts it, GPT-2's Conv1D among them."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, torch.nn.Linear | Conv1D)


def _is_norm(module: Any) -> bool:
    weight = getattr(module, "weight", None)
    return "norm" in type(module).__name__.lower() and getattr(weight, "ndim", 0) == 1


def _is_named(full_name: str, name: str) -> bool:
    return full_name == name or full_name.endswith("." + name)


def _in_preset(name: str, preset: str) -> bool:
    attention = bool(_ATTENTION.search(name))
    if preset == "attention_qv":
        return attention and bool(_QUERY_VALUE.search(name))
    if _ROUTER.search(name) or not _LAYER.search(name):  # nor a projection around all layers
        return False
    return {"attention": attention, "mlp": not attention, "all_linear": True}[preset]


def _shown(target: Target) -> str:
    return target if isinstance(target, str) else f"[{','.join(target)}]"


def _summary(names: Iterable[str] | Mapping[str, Any]) -> str:
    """Last parts of the names with their counts: `q_proj (30), v_proj (30)`."""
    counts = Counter(name.rpartition(".")[2] for name in names)
    return ", ".join(f"{name} ({count})" for name, count in counts.items()) or "none"


_NUMBER = re.compile(r"(?<=\.)\d+(?=\.|$)|(?<=\[)\d+(?=\])")


def grouped(names: Iterable[str]) -> dict[str, list[str]]:
    """Return pattern -> the names that differ from it in their numbers alone, both in the order of the names."""
    kinds: dict[str, list[str]] = {}
    for name in names:
        kinds.setdefault(_NUMBER.sub("#", name), []).append(name)
    return {_pattern(kind, members): members for kind, members in kinds.items()}


def _pattern(kind: str, members: Sequence[str]) -> str:
    """Return the kind with the numbers of each place in it."""
    numbers = [[int(number) for number in _NUMBER.findall(name)] for name in members]
    places = iter(_range(sorted({row[i] for row in numbers})) for i in range(len(numbers[0])))
    return re.sub("#", lambda _: next(places), kind)


def _range(numbers: Sequence[int]) -> str:
    if len(numbers) == 1:
        return str(numbers[0])
    if numbers == list(range(numbers[0], numbers[-1] + 1)):
        return f"{{{numbers[0]}..{numbers[-1]}}}"
    return f"{{{','.join(map(str, numbers))}}}"
