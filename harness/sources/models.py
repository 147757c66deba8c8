"""Base model and tokenizer: from a package, the Hub at a pinned revision, a local folder, or drawn at random.

A GGUF file is converted once to a safetensors folder in the user cache: bitsandbytes cannot load GGUF, and the
converted folder loads in under a second where the GGUF takes fifteen.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.sources import hub, packages, random_weights
from harness.sources.cache import cached_folder

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

    from harness.records.settings import ModelSpec

CONVERTER = 1  # raised when `convert` writes something else from the same file


def location(spec: ModelSpec) -> tuple[str, dict[str, Any]]:
    """Return the arguments of `from_pretrained`: a folder or Hub id, and the revision.

    Raises:
        ValueError: the model's package cannot be fetched.
    """
    if spec.weights == "random":
        return str(random_weights.folder_of(spec)), {}
    if spec.source == "hub":
        hub.limit_waiting()
        assert spec.hub_id is not None and spec.revision is not None, "sources.resolve has run before"
        return spec.hub_id, {"revision": spec.revision}
    if spec.source == "path":
        assert spec.path is not None, "sources.resolve has run before"
        return spec.path, {}
    return str(converted(spec)), {}


def check(spec: ModelSpec) -> None:
    """Read the weights of a model in the cache, and make those again that are not what was written.

    Weights of the Hub and of a folder are identified by the user's own store.
    """
    if spec.weights == "random":
        if random_weights.place(spec).exists():  # else the run draws them
            random_weights.folder_of(spec, by_content=True)
    elif spec.source == "package":
        converted(spec, by_content=True)


def converted(spec: ModelSpec, by_content: bool = False) -> Path:
    """Return the safetensors folder of a packaged GGUF model, converted on first use.

    `by_content` compares a folder that is there with the checksums of its files.
    """
    assert spec.package is not None and spec.file is not None, "config.build has checked the package source"
    gguf_file = packages.folder(spec.package) / spec.file
    key = hashlib.sha256(f"{CONVERTER} {spec.package} {spec.file} {gguf_file.parent}".encode()).hexdigest()[:16]
    folder = packages.cache_dir() / "models" / f"{spec.name}-{key}"
    return cached_folder(folder, partial(_convert, spec.package, spec.file), by_content)


def _convert(package: str, file: str, folder: Path) -> None:
    """Dequantize a GGUF file to float32 and save it as an ordinary folder with its tokenizer."""
    gguf_file = packages.member(package, file)
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = {"gguf_file": gguf_file.name}
    model = AutoModelForCausalLM.from_pretrained(gguf_file.parent, dtype=torch.float32, **source)
    # save_pretrained refuses a model that is still marked as quantized, though its weights are plain tensors by now
    model.hf_quantizer = None
    model.is_quantized = False
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf_file.parent, **source).save_pretrained(folder)


def load(spec: ModelSpec, options: dict[str, Any], read: Callable[..., Any] | None = None) -> PreTrainedModel:
    """Return the base model with frozen weights, in evaluation mode.

    `options` are keyword arguments of `from_pretrained`, such as a method's `load_options`; `read` is called in its
    place, such as a method's `read`.
    """
    from transformers import AutoModelForCausalLM

    name, where = location(spec)
    read = read or AutoModelForCausalLM.from_pretrained
    given = {**where, "use_safetensors": True, "trust_remote_code": spec.trust_remote_code, **options}
    model: PreTrainedModel = read(name, **given)
    _check_places(getattr(model, "hf_device_map", {}))
    model.requires_grad_(False)
    model.config.use_cache = False
    return model.eval()


def _check_places(places: dict[str, Any]) -> None:
    """Refuse a model of which parts are on the host or on a disk while the others are on GPUs.

    Raises:
        ValueError: names a part of the model, and where it is.
    """
    for place in ("disk", "cpu"):
        parts = [part for part, where in places.items() if where == place]
        if parts and (place == "disk" or len(parts) < len(places)):
            raise ValueError(
                f"model.device_map=auto: the model does not fit the GPUs that can be seen ({len(parts)} of its parts, "
                f"as {parts[0]}, would be fetched from the {place} again and again); use more GPUs, or a quantized base"
            )


def plain(base: PreTrainedModel) -> PreTrainedModel:
    """Return the base on the host and in float32, dequantized if it is quantized: merging in float32 rounds least.

    bitsandbytes loads to a GPU where there is one, which the model in float32 might fill.
    """
    import torch

    result: PreTrainedModel = dequantized(base).to("cpu", torch.float32)
    return result


def dequantized(base: PreTrainedModel) -> PreTrainedModel:
    """Return the base itself, or with the weights of quantized layers as the numbers that they stand for."""
    return base.dequantize() if getattr(base, "is_quantized", False) else base


def own_layers(model: PreTrainedModel) -> PreTrainedModel:
    """Return a dequantized model with the layers of its architecture, in place.

    bitsandbytes makes a Linear of GPT-2's Conv1D, which holds its weight transposed: saved so, a square matrix would be
    read back transposed.
    """
    import torch
    from transformers.pytorch_utils import Conv1D

    with torch.device("meta"):
        architecture = type(model)(model.config)
    for name, layer in architecture.named_modules():
        linear = model.get_submodule(name)
        if isinstance(layer, Conv1D) and isinstance(linear, torch.nn.Linear):
            own = Conv1D(linear.out_features, linear.in_features)
            own.weight = torch.nn.Parameter(linear.weight.detach().T.contiguous(), requires_grad=False)
            own.bias = torch.nn.Parameter(linear.bias.detach(), requires_grad=False)
            model.set_submodule(name, own)
    return model


def skeleton(spec: ModelSpec, dtype: torch.dtype) -> PreTrainedModel:
    """Return the architecture on the meta device: shapes and module names. The weights need not exist."""
    return skeleton_of(configuration(spec), dtype, spec.trust_remote_code)


def configuration(spec: ModelSpec) -> Any:
    """Return transformers' configuration; of random weights without drawing them."""
    from transformers import AutoConfig

    if spec.weights == "random":
        return random_weights.configuration(spec)
    name, where = location(spec)
    return AutoConfig.from_pretrained(name, **where, trust_remote_code=spec.trust_remote_code)


def skeleton_of(config: Any, dtype: torch.dtype, trust_remote_code: bool = False) -> PreTrainedModel:
    """Return the `skeleton` of a transformers configuration."""
    import torch
    from transformers import AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=dtype, trust_remote_code=trust_remote_code)
    model.requires_grad_(False)
    return model


def tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the model's tokenizer, with a padding token that is not mistaken for a label.

    Padding is told from content by the attention mask and the label mask, never by the token, so that a padding token
    equal to the end-of-sequence token leaves that token's label in place.
    """
    from transformers import AutoTokenizer

    if spec.weights == "random":
        return random_weights.byte_tokenizer()
    name, where = location(spec)
    result = AutoTokenizer.from_pretrained(name, **where, trust_remote_code=spec.trust_remote_code)
    if result.eos_token is None:
        raise ValueError(f"model={spec.name}: its tokenizer has no end-of-sequence token, which training needs")
    if result.pad_token is None:
        result.pad_token = result.eos_token
    return result
