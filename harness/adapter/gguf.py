"""Writer and reader of a plain Llama-type model as one GGUF file, in the layout of llama.cpp's own converter.

Queries and keys are stored with the two halves of each head interleaved. Norms are float32; matrices are float32 or
bfloat16, as in the model.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gguf
import numpy as np
import torch

from harness.adapter.load import PROMPTS, logits

if TYPE_CHECKING:
    from harness.records.settings import ModelSpec

FILE = "model.gguf"
_TYPES = ("llama", "mistral")
_SPLITS = {
    # start of a pre-tokenizer's regular expression -> its name in llama.cpp
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}": "llama-bpe",
    "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}|": "qwen2",
}


def check(config: Any, tokenizer: Any) -> None:
    """Refuse a model or a tokenizer that cannot be written.

    Raises:
        ValueError: names the part that the format cannot hold.
    """
    if config.model_type not in _TYPES:
        raise ValueError(f"--format gguf: writes Llama-type models ({', '.join(_TYPES)}), not {config.model_type}")
    if getattr(config, "sliding_window", None):
        raise ValueError(f"--format gguf: sliding_window={config.sliding_window}, which a Llama has not")
    if getattr(config, "attention_bias", False) or getattr(config, "mlp_bias", False):
        raise ValueError("--format gguf: the model's linear layers have biases, which the Llama layout has not")
    if _rope(config)["rope_type"] not in ("default", "llama3"):
        raise ValueError(f"--format gguf: rope_type={_rope(config)['rope_type']}; only default and llama3 are written")
    _pre_tokenizer(tokenizer)


def write(model: Any, tokenizer: Any, path: Path, spec: ModelSpec) -> None:
    """Write the model with its tokenizer.

    Raises:
        ValueError: as `check`, or the Llama layout has no place for a parameter.
    """
    check(model.config, tokenizer)
    writer = gguf.GGUFWriter(path, "llama")
    _write_sizes(writer, model, spec)
    _write_tokenizer(writer, tokenizer, model.config.vocab_size)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, model.config.num_hidden_layers)
    for name, tensor in model.named_parameters():
        stored = names.get_name(name, try_suffixes=(".weight",))
        if stored is None:
            raise ValueError(f"--format gguf: the Llama layout has no place for {name}")
        _add(writer, stored, _interleaved(name, tensor.detach(), model.config))
    if _rope(model.config)["rope_type"] == "llama3":
        writer.add_tensor("rope_freqs.weight", _rope_factors(model.config))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def read_back(path: Path, dtype: torch.dtype, config: Any, tokenizer: Any) -> dict[str, Any]:
    """Return the logits of the file in transformers, and on how many prompts its tokenizer gives the same tokens."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(path.parent, gguf_file=path.name, dtype=dtype).eval()
    if _rope(config)["rope_type"] == "llama3":  # transformers does not read these factors; llama.cpp does
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    again = AutoTokenizer.from_pretrained(path.parent, gguf_file=path.name)
    same = sum(again(prompt)["input_ids"] == tokenizer(prompt)["input_ids"] for prompt in PROMPTS)
    facts = {"prompts": len(PROMPTS), "prompts_tokenized_alike": same}
    return {"logits": logits(model, tokenizer), "facts": facts}


def _write_sizes(writer: Any, model: Any, spec: ModelSpec) -> None:
    config = model.config
    head = _head_size(config)
    writer.add_name(spec.name)
    if spec.license:
        writer.add_license(spec.license.lower())
    writer.add_vocab_size(config.vocab_size)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_rope_dimension_count(head)
    writer.add_rope_freq_base(_rope(config)["rope_theta"])
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    kinds = {torch.float32: gguf.LlamaFileType.ALL_F32, torch.bfloat16: gguf.LlamaFileType.MOSTLY_BF16}
    writer.add_file_type(kinds.get(model.dtype, gguf.LlamaFileType.ALL_F32))


def _write_tokenizer(writer: Any, tokenizer: Any, vocab_size: int) -> None:
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    tokens, kinds = _tokens(tokenizer, described, vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(_pre_tokenizer(tokenizer))
    writer.add_token_list(tokens)
    writer.add_token_types(kinds)
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in described["model"]["merges"]]
    if merges:
        writer.add_token_merges(merges)
    else:  # an empty array cannot be written, and readers then derive merges from scores
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
    for key, number in (
        ("bos", tokenizer.bos_token_id), ("eos", tokenizer.eos_token_id),
        ("unk", tokenizer.unk_token_id), ("pad", tokenizer.pad_token_id),
    ):  # fmt: skip
        if number is not None:
            getattr(writer, f"add_{key}_token_id")(number)
    ids = tokenizer("a")["input_ids"]
    writer.add_add_bos_token(tokenizer.bos_token_id is not None and ids[0] == tokenizer.bos_token_id)
    writer.add_add_eos_token(tokenizer.eos_token_id is not None and ids[-1] == tokenizer.eos_token_id)
    writer.add_add_space_prefix(False)
    if isinstance(tokenizer.chat_template, str):
        writer.add_chat_template(tokenizer.chat_template)


def _tokens(tokenizer: Any, described: dict[str, Any], vocab_size: int) -> tuple[list[str], list[int]]:
    """Return the token and its kind for every row of the embedding. Rows without a token are marked unused."""
    kind = gguf.TokenType
    tokens = [f"[PAD{i}]" for i in range(vocab_size)]
    kinds = [int(kind.UNUSED)] * vocab_size
    for token, i in tokenizer.get_vocab().items():
        if i >= vocab_size:
            raise ValueError(f"--format gguf: token {token!r} is number {i}, and the model has {vocab_size} embeddings")
        tokens[i], kinds[i] = token, int(kind.NORMAL)
    for added in described["added_tokens"]:
        kinds[added["id"]] = int(kind.CONTROL if added["special"] else kind.USER_DEFINED)
    return tokens, kinds


def _pre_tokenizer(tokenizer: Any) -> str:
    """Return llama.cpp's name of the tokenizer's pre-tokenizer, which splits text before the merges.

    Raises:
        ValueError: the tokenizer is not a byte-level BPE, or its pre-tokenizer is not supported here.
    """
    described = json.loads(tokenizer.backend_tokenizer.to_str())
    outer = described["pre_tokenizer"] or {}
    steps = outer["pretokenizers"] if outer.get("type") == "Sequence" else [outer]
    kinds = [step.get("type") for step in steps]
    if described["model"]["type"] == "BPE" and kinds == ["ByteLevel"]:
        return "gpt-2"
    if described["model"]["type"] == "BPE" and kinds == ["Digits", "ByteLevel"]:
        return "smollm"
    if described["model"]["type"] == "BPE" and kinds == ["Split", "ByteLevel"]:
        expression = steps[0]["pattern"].get("Regex", "")
        name = next((name for start, name in _SPLITS.items() if expression.startswith(start)), None)
        if name is not None:
            return name
    raise ValueError(
        f"--format gguf: the tokenizer is {described['model']['type']} with {', '.join(map(str, kinds))}; only "
        "byte-level BPE as in GPT-2, SmolLM2, Llama 3 and Qwen can be written. Merge to safetensors, and convert that "
        "with llama.cpp"
    )


def _add(writer: Any, name: str, tensor: torch.Tensor) -> None:
    values = np.ascontiguousarray(tensor.to(torch.float32).cpu().numpy())
    if tensor.dtype == torch.bfloat16 and tensor.dim() > 1:
        kind = gguf.GGMLQuantizationType.BF16
        writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
    else:
        writer.add_tensor(name, values)


def _interleaved(name: str, tensor: torch.Tensor, config: Any) -> torch.Tensor:
    """Interleave the two halves of each head's rows in queries and keys. Return other tensors unchanged."""
    heads = {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}
    number = heads.get(name.split(".")[-2])
    if number is None:
        return tensor
    rows, columns = tensor.shape
    return tensor.reshape(number, 2, rows // number // 2, columns).swapaxes(1, 2).reshape(rows, columns)


def _rope(config: Any) -> dict[str, Any]:
    rope: dict[str, Any] = {"rope_type": "default", "rope_theta": 10000.0, **(config.rope_parameters or {})}
    return rope


def _rope_factors(config: Any) -> Any:
    """Return the divisor of each rotary frequency, as in transformers' `_compute_llama3_parameters`."""
    rope, head = _rope(config), _head_size(config)
    low, high, factor = rope["low_freq_factor"], rope["high_freq_factor"], rope["factor"]
    old = rope["original_max_position_embeddings"]
    frequencies = 1.0 / rope["rope_theta"] ** (np.arange(0, head, 2, dtype=np.float64) / head)
    turns = old * frequencies / (2 * math.pi)  # rotations within the original context length
    smooth = np.clip((turns - low) / (high - low), 0.0, 1.0)
    return (1.0 / ((1 - smooth) / factor + smooth)).astype(np.float32)


def _head_size(config: Any) -> int:
    return int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
