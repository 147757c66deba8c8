"""lm-eval on vLLM, for a GPU: plain models and LoRA adapters, from their folders on disk."""

from __future__ import annotations

import json
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from harness.records.evaluation import Evaluation

_SHARE_OF_FREE_MEMORY = 0.9  # of the GPU; the rest is for tensors that torch allocates outside of vLLM
# initializations that change the base; older versions of vLLM leave it as it is
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "loftq")
_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # values that vLLM accepts as `max_lora_rank`


@dataclass(frozen=True, kw_only=True)
class Served:
    """Source of a model for vLLM: a folder or Hub id, its revision, and optionally the folder of a LoRA adapter."""

    name: str
    revision: str | None = None
    adapter: Path | None = None
    trust_remote_code: bool = False


def saved(model: Any, tokenizer: Any, folder: Path) -> Served:
    """Save a loaded plain model and its tokenizer to a folder, and return it as a source for vLLM."""
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return Served(name=str(folder))


def unsupported(cuda: bool) -> str:
    """Return the reason why vLLM cannot be used here; "" if it can."""
    if not cuda:
        return "eval.backend=vllm needs a CUDA device; eval.backend=shared_prefix runs everywhere"
    if find_spec("vllm") is None:
        return "eval.backend=vllm needs vLLM: pip install 'harness[vllm]'"
    return ""


def options(served: Served, evaluation: Evaluation, free: float = 1.0) -> dict[str, Any]:
    """Return the arguments of lm-eval's vLLM model; `free` is the free fraction of the GPU's memory.

    Raises:
        ValueError: vLLM does not support the adapter.
    """
    settings: dict[str, Any] = {
        "pretrained": served.name,
        "revision": served.revision,
        "tokenizer_revision": served.revision,
        "trust_remote_code": served.trust_remote_code,
        "dtype": "bfloat16" if evaluation.precision == "bf16" else "float32",
        "batch_size": "auto",  # vLLM schedules by itself
        "gpu_memory_utilization": round(_SHARE_OF_FREE_MEMORY * free, 2),
        "enable_prefix_caching": True,
    }
    if served.adapter is None:
        return settings
    path = served.adapter / "adapter_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    changed = ("use_dora", "modules_to_save", "alora_invocation_tokens", "target_parameters", "lora_bias")
    has_own_base = str(config.get("init_lora_weights")).startswith(_CHANGE_THE_BASE)
    has_biases = config.get("bias") not in (None, "none")
    if config.get("peft_type") != "LORA" or has_own_base or has_biases or any(config.get(key) for key in changed):
        raise ValueError(
            "eval.backend=vllm takes plain models and LoRA adapters (without DoRA, biases, experts, modules saved "
            "whole, and initializations that change the base), "
            f"and {served.adapter} is none: use eval.weights=merged, or eval.backend=shared_prefix"
        )
    rank = max([config["r"], *(config.get("rank_pattern") or {}).values()])
    room = next((size for size in _RANKS if size >= rank), None)
    if room is None:
        raise ValueError(f"eval.backend=vllm takes LoRA adapters up to rank {_RANKS[-1]}, this one has {rank}")
    return {**settings, "lora_local_path": str(served.adapter), "max_lora_rank": room}


def backend(served: Served, evaluation: Evaluation) -> Any:
    """Return lm-eval's vLLM model, sized to the GPU memory that is free."""
    import torch
    from lm_eval.models.vllm_causallms import VLLM

    free, total = torch.cuda.mem_get_info() if torch.cuda.is_available() else (1, 1)
    return VLLM(**options(served, evaluation, free / total))
