"""Random weights of a known shape in an ordinary folder, with a byte-level tokenizer.

For measuring memory and speed without downloads. The folder is written once to the user's cache, a shard at a time, so
that writing takes no more memory than the largest shard. On disk it takes two bytes per parameter.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.sources import packages
from harness.sources.cache import cached_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.records.settings import ModelSpec

_SHARD_BYTES = 2 * 10**9
_SLICE = 2**22  # numbers that one generator draws
_SPREAD = 0.02  # standard deviation of matrices, as most of these models are initialized
_TEMPLATE = (
    "{% for m in messages %}<|{{ m.role }}|>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)


def folder_of(spec: ModelSpec, by_content: bool = False) -> Path:
    """Return the folder with a model of the spec's shapes, made on first use; `by_content` as in `cached_folder`."""
    return cached_folder(place(spec), partial(_write, spec), by_content)


def place(spec: ModelSpec) -> Path:
    """Return the place of the folder in the cache; it may not be there yet."""
    assert spec.content is not None, "sources.resolve has run before"
    return packages.cache_dir() / "models" / f"{spec.name}-{spec.content.replace(':', '-')}"


def configuration(spec: ModelSpec) -> Any:
    """Return transformers' configuration of the shapes in a model's YAML.

    Raises:
        ValueError: they cannot be read.
    """
    from transformers import AutoConfig

    table = {key: value for key, value in (spec.architecture or {}).items() if key != "of"}
    try:
        return AutoConfig.for_model(table.pop("model_type"), **table)
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"model={spec.name}: model.architecture cannot be read: {error}") from error


def byte_tokenizer() -> PreTrainedTokenizerBase:
    """Return a tokenizer with a token for each byte, three special tokens and a chat template."""
    from tokenizers import Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    special = ["<unk>", "<s>", "</s>"]
    vocabulary = {token: i for i, token in enumerate([*special, *sorted(pre_tokenizers.ByteLevel.alphabet())])}
    bytes_only = Tokenizer(BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bytes_only.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_only.decoder = decoders.ByteLevel()
    result = PreTrainedTokenizerFast(
        tokenizer_object=bytes_only, unk_token="<unk>", bos_token="<s>", eos_token="</s>", pad_token="</s>"
    )
    result.chat_template = _TEMPLATE
    return result


def _write(spec: ModelSpec, folder: Path) -> None:
    import torch
    from safetensors.torch import save_file
    from transformers import AutoModelForCausalLM

    shapes = configuration(spec)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(shapes, dtype=torch.bfloat16)
    index: dict[str, str] = {}
    for number, names in enumerate(_shards(model), start=1):
        file = f"model-{number:05d}.safetensors"
        state = model.state_dict()
        save_file({name: _drawn(name, state[name]) for name in names}, folder / file, {"format": "pt"})
        index.update(dict.fromkeys(names, file))
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    shapes.architectures = [type(model).__name__]
    shapes.save_pretrained(folder)
    byte_tokenizer().save_pretrained(folder)


def _shards(model: PreTrainedModel) -> Iterator[list[str]]:
    """Yield the names of all stored tensors, tied ones once, in groups of two gigabytes."""
    seen: set[int] = set()
    names: list[str] = []
    size = 0
    for name, tensor in model.state_dict(keep_vars=True).items():
        if id(tensor) in seen:
            continue
        seen.add(id(tensor))
        names.append(name)
        size += 2 * tensor.numel()
        if size >= _SHARD_BYTES:
            yield names
            names, size = [], 0
    if names:
        yield names


def _drawn(name: str, like: torch.Tensor) -> torch.Tensor:
    """Return drawn matrices, scales of one and shifts of zero, so that numbers stay of an ordinary size.

    Each slice has a generator of its own, seeded by its place: cores draw at once, and their number changes nothing.
    """
    import torch

    if like.dim() > 1:
        matrix = torch.empty(like.shape, dtype=torch.bfloat16)
        slices = matrix.view(-1).split(_SLICE)
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            list(pool.map(_draw, slices, (f"{name} {number}" for number in range(len(slices)))))
        return matrix
    fill = 1.0 if name.endswith("weight") else 0.0
    return torch.full(like.shape, fill, dtype=torch.bfloat16 if like.is_floating_point() else like.dtype)


def _draw(part: torch.Tensor, place: str) -> None:
    import torch

    seed = int.from_bytes(hashlib.sha256(place.encode()).digest()[:7])
    part.normal_(0, _SPREAD, generator=torch.Generator().manual_seed(seed))
