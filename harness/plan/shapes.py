"""A model without its weights, from whatever tells its shapes here. Imports torch and transformers."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from tokenizers import Tokenizer, pre_tokenizers
from tokenizers.models import BPE
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from harness import models
from harness.specs import ModelSpec

_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def skeleton(spec: ModelSpec) -> PreTrainedModel:
    """The model on the meta device: from its folder, else from the shapes in its YAML, else from the Hub's config.json.

    Raises:
        ValueError: nothing here tells the shapes.
    """
    return models.skeleton_of(_configuration(spec), torch.bfloat16, spec.trust_remote_code)


def tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a local folder; else a byte-level one, since no count depends on it."""
    return models.tokenizer(spec) if spec.source == "path" else _stand_in()


def _configuration(spec: ModelSpec) -> Any:
    table = dict(spec.architecture or {})
    if spec.source == "path" or table.pop("of", None) != spec.hub_id:
        return _from_files(spec)
    try:
        return AutoConfig.for_model(table.pop("model_type"), **table)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"model={spec.name}: model.architecture cannot be read: {error}") from error


def _from_files(spec: ModelSpec) -> Any:
    at = replace(spec, revision=spec.revision or "main")
    try:
        name, where = models.location(at)
        return AutoConfig.from_pretrained(name, **where, trust_remote_code=spec.trust_remote_code)
    except (OSError, KeyError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ValueError(
            f"model={spec.name}: nothing here tells its shapes ({reason}): give model.source=path "
            "model.path=<folder with config.json>, or a model whose YAML has an architecture"
        ) from error


def _stand_in() -> PreTrainedTokenizerBase:
    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    result = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    result.chat_template = _TEMPLATE
    return result
