"""Validation of values against a schema, as strict JSON; errors name the setting as on the command line."""

import difflib
import json
import math
from collections.abc import Iterable
from typing import Any

from pydantic import ValidationError

from harness.methods.targets import PRESETS
from harness.sources.packages import conf_dir

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

# the names that Trainer, TRL, PEFT and their like have for a setting: what an unknown name was probably meant to be
FOREIGN = {
    "learning_rate": "method.lr",
    "num_train_epochs": "train.epochs",
    "num_epochs": "train.epochs",
    "per_device_train_batch_size": "train.micro_batch_size",
    "train_batch_size": "train.global_batch_size",
    "batch_size": "train.global_batch_size",
    "gradient_accumulation_steps": "train.global_batch_size",  # train.micro_batch_size x accumulated steps x processes
    "per_device_eval_batch_size": "eval.batch_size",
    "max_seq_length": "train.max_length",
    "max_seq_len": "train.max_length",
    "model_max_length": "train.max_length",
    "warmup_ratio": "train.warmup_steps",
    "bf16": "train.precision",
    "fp16": "train.precision",
    "mixed_precision": "train.precision",
    "eval_steps": "train.eval_every",
    "save_steps": "train.checkpoint_seconds",
    "early_stopping_patience": "train.patience",
    "completion_only_loss": "train.loss_on",
    "assistant_only_loss": "train.loss_on",
    "full_determinism": "train.deterministic",
    "attn_implementation": "train.kernels.attention",
    "use_liger_kernel": "train.kernels.liger",
    "torch_compile": "train.kernels.compile",
    "tf32": "train.kernels.tf32",
    "fsdp": "launch.sharding",
    "deepspeed": "launch.sharding",
    "nproc_per_node": "launch.num_processes",
    "lora_r": "method.r",
    "lora_rank": "method.r",
    "rank": "method.r",
    "alpha": "method.lora_alpha",
    "dropout": "method.lora_dropout",
    "target_modules": "target",
    "report_to": "tracking",
    "output_dir": "runs_dir",
    "data_seed": "seed",
    "model_name_or_path": "model.hub_id",
    "model_name": "model.hub_id",
    "use_dora": "method=dora",
    "load_in_4bit": "method=qlora",
    "load_in_8bit": "method=qlora method.quantization=int8",
}

_ALMOST_EQUAL = 0.85  # similarity from which a name of the same section goes before any other


def suggestion(key: str, allowed: Iterable[str], elsewhere: Iterable[str] = ()) -> str:
    """Return the question after the setting that an unknown key was probably meant to be; "" if none is near.

    Args:
        key: the whole name of the unknown setting, such as `train.warmup`.
        allowed: the names that its section has.
        elsewhere: the settings of other sections that are called like it, such as `eval.limit` for `train.limit`.
    """
    name = key.rpartition(".")[2]
    names = list(allowed)
    current = RENAMED.get(key, "").rpartition(".")[2]
    meant = [current] if current in names else difflib.get_close_matches(name, names, n=1, cutoff=_ALMOST_EQUAL)
    meant = meant or ([FOREIGN[name]] if name in FOREIGN else list(elsewhere))
    meant = meant or difflib.get_close_matches(name, names, n=1)
    return f" Did you mean {' or '.join(meant)}?" if meant else ""


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
        return not_a_list(name, value)
    if first["type"] == "dataclass_type":
        group = name.replace(".", "/")
        options = ", ".join(sorted(file.stem for file in (conf_dir() / group).glob("*.yaml")))
        what = f"a group; write {group}=<one of {options}>" if options else f"a table; set {name}.<name>=..."
        return f"{name}={json.dumps(value)}: {name} is {what}"
    return f"{name}={json.dumps(value)}: {lower(first['msg'])}"


def not_a_list(name: str, value: Any) -> str:
    """Return the message for a value where a list is needed."""
    return f"{name}={json.dumps(value)}: must be a list, as in {name}=[{'' if value is None else value}]"


def lower(text: str) -> str:
    """Return a message of pydantic's as the end of a sentence."""
    return (text[:1].lower() + text[1:]).replace("input should be", "must be")
