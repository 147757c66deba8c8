"""Validation of values against a schema, as strict JSON; errors name the setting as on the command line."""

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from harness.methods.targets import PRESETS

# settings that had another name in an earlier version: an old name is answered with the new one
RENAMED = {
    "train.schedule": "train.lr_scheduler_type",
    "train.warmup": "train.warmup_steps",
    "train.loader_processes": "train.dataloader_num_workers",
    "train.diverged_above": "train.divergence_factor",
    "train.diverged_steps": "train.divergence_steps",
    "train.oom.shorter_rows": "train.oom.max_lengths",
    "train.oom.quantised_base": "train.oom.quantized_base",
    "method.storage": "method.quantization",
    "method.double_quantisation": "method.double_quantization",
    "method.init": "method.init_lora_weights",
    "eval.generate": "eval.generation_rows",
    "eval.general_text": "eval.general_text_passages",
    "inference.measured": "inference.enabled",
    "inference.repeats": "inference.num_repeats",
    "inference.outputs": "inference.num_outputs",
    "model.licence": "model.license",
    "data.licence": "data.license",
    "retry": "rerun",
    "retries": "max_retries",
}


def suggestion(key: str, allowed: Iterable[str]) -> str:
    """Return the question after the allowed setting that an unknown key was probably meant to be; "" if none is near.

    Args:
        key: the whole name of the unknown setting, such as `train.warmup`.
        allowed: the names that its section has.
    """
    name = key.rpartition(".")[2]
    names = list(allowed)
    current = RENAMED.get(key, "").rpartition(".")[2]
    near = [current] if current in names else difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {near[0]}?" if near else ""


def check_finite(value: Any, name: str) -> None:
    """Refuse NaN and infinity, which neither JSON nor an identity can hold.

    Raises:
        ValueError: names the setting.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"{name}={value}: must be a finite number")
    parts = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, part in parts:
        check_finite(part, f"{name}.{key}")


def explained(error: ValidationError, values: Any, section: str, allowed: list[str]) -> str:
    """Return the first error, with the setting's name on the command line."""
    first = error.errors()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    path, value = [section], values
    for part in first["loc"]:
        if isinstance(value, dict) and part in value:
            path, value = [*path, str(part)], value[part]
        elif isinstance(value, list) and isinstance(part, int) and part < len(value):
            path, value = [f"{'.'.join(path)}[{part}]"], value[part]
    name = ".".join(path)
    if first["type"] == "missing":
        return f"{section}.{first['loc'][-1]}: missing; give it a value"
    if first["type"] in ("extra_forbidden", "unexpected_keyword_argument"):
        return f"{name}: no such setting.{suggestion(name, allowed)} {section} has {', '.join(allowed)}"
    if name.startswith("method.target"):
        presets = ", ".join(PRESETS)
        return f"target={json.dumps(value)}: must be one of {presets}, a list of module names, or 're:<expression>'"
    if first["type"] in ("tuple_type", "list_type"):
        text = "" if value is None else value
        return f"{name}={json.dumps(value)}: must be a list, as in {name}=[{text}]"
    return f"{name}={json.dumps(value)}: {lower(first['msg'])}"


def lower(text: str) -> str:
    """Return a message of pydantic's as the end of a sentence."""
    return (text[:1].lower() + text[1:]).replace("input should be", "must be")
