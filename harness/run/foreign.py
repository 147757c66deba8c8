"""Adapters that were trained elsewhere: what their files say of them, and how they become runs with scores.

Only `adapter_config.json` and the header of `adapter_model.safetensors` are read before anything is loaded, and no code
of their makers is run. How an adapter was trained is unknown, and nothing of it is made up: its recipe has an origin,
and neither data nor training settings.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.methods.peft import UNMERGED
from harness.methods.peft_adapter import Adapted
from harness.records import disk
from harness.sources import pickles

if TYPE_CHECKING:
    from peft import PeftConfig
    from transformers import PreTrainedModel

    from harness.methods.base import Setting

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
SEED = re.compile(r"[-_./ ]*seed[-_=. ]?(\d+)", re.IGNORECASE)
ORIGIN = "PEFT adapter"
_LONGEST_HEADER = 100 * 2**20
_LONGEST_CONFIG = 10 * 2**20
# a tensor's name -> the module that it changes, and the part of the adapter that it is
_PLACED = re.compile(r"base_model\.model\.(?P<module>.+?)\.(?P<part>(?:lora_[AB]|ia3_l|vera_lambda_|hada_w|lokr_w).*)")
_WHOLE = re.compile(r"base_model\.model\.(?P<module>.+?)(?:\.base_layer)?\.weight")  # saved whole
# A part of a tensor's name -> the PEFT types that have such tensors
_TELLTALES = {
    ".lora_A.": ("LORA", "ADALORA"),
    ".lora_B.": ("LORA", "ADALORA"),
    ".lora_embedding_": ("LORA", "ADALORA"),
    ".lora_E": ("ADALORA",),
    ".vera_lambda_": ("VERA",),
    ".ia3_l": ("IA3",),
    ".hada_w": ("LOHA",),
    ".lokr_w": ("LOKR",),
    ".oft_": ("OFT",),
    ".boft_": ("BOFT",),
    ".ln_tuning_layers": ("LN_TUNING",),
    "prompt_embeddings": ("PROMPT_TUNING", "PREFIX_TUNING", "P_TUNING", "MULTITASK_PROMPT_TUNING", "CPT", "CARTRIDGE"),
    "adaption_prompt": ("ADAPTION_PROMPT",),
}
_FROZEN = re.compile(  # saved with an adapter and not trained: projections, indices of weights, and embeddings
    r"\.(?:p?vera|randlora)_[AB]\b|\.tinylora_[ABP]\b|\.frod_(?:[UV]|s_)|\.adamss_newB\b|\.unilora_(?:indices|scales)"
    r"|\.shira_indices\b|\.base_layer\.weight$"
)
_INTO_THE_BASE = ("corda", "lora_ga")  # initializations that take data into the base; PiSSA's and OLoRA's take none
_OWN_SHAPES = ("use_qalora", "use_bdlora")  # variants of LoRA whose A or B has others than the layer's
_NAMES = {
    "LORA": "LoRA", "VERA": "VeRA", "IA3": "(IA)3", "PROMPT_TUNING": "prompt tuning", "PREFIX_TUNING": "prefix tuning",
    "P_TUNING": "P-tuning", "LN_TUNING": "LN tuning", "ADALORA": "AdaLoRA", "LOHA": "LoHa", "LOKR": "LoKr",
}  # fmt: skip
_SHOWN = ("r", "lora_alpha", "use_rslora", "use_dora", "target_modules", "num_virtual_tokens", "init_lora_weights")


@dataclass(frozen=True)
class Adapter:
    """An adapter in a folder, as its configuration and the header of its weights describe it.

    Attributes:
        folder: holds `adapter_config.json` and `adapter_model.safetensors`.
        name: for people, without the seed.
        seed: in its name; None: unknown.
        place: where it is from.
        config: its configuration.
        tensors: name -> shape and dtype of each saved tensor.
        is_named: whether the user gave the name.
    """

    folder: Path
    name: str
    seed: int | None
    place: str
    config: Mapping[str, Any]
    tensors: Mapping[str, tuple[tuple[int, ...], str]]
    is_named: bool = False

    @property
    def kind(self) -> str:
        """Return PEFT's type, as LORA."""
        return str(self.config["peft_type"])

    @property
    def display(self) -> str:
        """Return its name with the method that it is, as `mine (LoRA, r=16)`."""
        kind = "DoRA" if self.config.get("use_dora") else "rsLoRA" if self.config.get("use_rslora") else None
        rank = f", r={self.config['r']}" if self.kind == "LORA" and self.config.get("r") else ""
        return f"{self.name} ({kind or _NAMES.get(self.kind, self.kind)}{rank})"

    @property
    def identifier(self) -> str:
        """Return the name as the name of a file."""
        return re.sub(r"[^\w.+-]+", "-", self.name).strip("-._+")[:120] or "adapter"

    @property
    def base(self) -> tuple[str | None, str | None]:
        """Return the base model that it says it is for, a Hub id or a folder, and its revision."""
        return self.config.get("base_model_name_or_path") or None, self.config.get("revision") or None

    @property
    def trained(self) -> dict[str, tuple[tuple[int, ...], str]]:
        """Return the saved tensors that were trained."""
        return {name: entry for name, entry in self.tensors.items() if not _FROZEN.search(name)}

    @property
    def parameters(self) -> int:
        """Return the number of trained parameters."""
        return sum(prod(shape) for shape, _ in self.trained.values())

    @cached_property
    def content(self) -> str:
        """Return 16 hex digits over its two files."""
        whole = hashlib.sha256()
        for name in (CONFIG, WEIGHTS):
            digest, size = disk.sum_of(self.folder / name)
            whole.update(f"{name} {digest} {size}\n".encode())
        return whole.hexdigest()[:16]

    @property
    def settings(self) -> dict[str, Any]:
        """Return its method's settings, as far as its configuration names them."""
        recorded = {key: self.config[key] for key in _SHOWN if self.config.get(key) not in (None, False)}
        if isinstance(recorded.get("target_modules"), list):
            recorded["target_modules"] = sorted(recorded["target_modules"])
        return recorded


def is_adapter(folder: Path) -> bool:
    """Return whether a folder holds an adapter of PEFT's, and is neither a run of this project nor a whole model.

    Some trainers write the base's configuration beside an adapter.
    """
    others = any(path.name != WEIGHTS for path in folder.glob("*.safetensors"))
    is_model = others and (folder / "config.json").is_file()
    return (folder / CONFIG).is_file() and not is_model and not (folder / "record.json").is_file()


def read(folder: Path, place: str, name: str | None = None) -> Adapter:
    """Return the adapter in a folder.

    Raises:
        ValueError: a file is missing or damaged, its weights are a pickle, it is not what it says it is, or it belongs
            on a base that nobody has any more.
    """
    pickles.refuse(folder, place)
    config = _config(folder / CONFIG, place)
    if not (folder / WEIGHTS).is_file():
        raise ValueError(f"{place}: no {WEIGHTS} beside its {CONFIG}; save it again with `save_pretrained`")
    text = name or _name_of(folder.resolve())
    seed = SEED.search(text)
    plain = (text[: seed.start()] + text[seed.end() :]).strip("-_./ ") if seed else text
    number, tensors = int(seed[1]) if seed else None, _header(folder / WEIGHTS)
    result = Adapter(folder, plain or text, number, place, config, tensors, is_named=name is not None)
    if fault := _fault(result):
        raise ValueError(f"{place}: it is not what it says it is: {fault}")
    if (init := str(config.get("init_lora_weights"))).startswith(_INTO_THE_BASE):
        raise ValueError(
            f"{place}: init_lora_weights={init} changed its base by rows that are not in its files, and it would be "
            "scored on another base: save it as plain LoRA, `save_pretrained(..., "
            "path_initial_model_for_weight_conversion=...)`"
        )
    if config.get("layer_replication"):
        raise ValueError(
            f"{place}: layer_replication makes another model of its base, in which layers are repeated: merge it with "
            "PEFT (`merge_and_unload`, `save_pretrained`) and evaluate that folder as a model"
        )
    return result


def _name_of(folder: Path) -> str:
    """Return the name of a folder, behind that of the folder around it where it is a seed alone."""
    return f"{folder.parent.name}-{folder.name}" if SEED.fullmatch(folder.name) else folder.name


def _config(path: Path, place: str) -> dict[str, Any]:
    if (size := path.stat().st_size) > _LONGEST_CONFIG:
        raise ValueError(f"{place}: its {CONFIG} has {size:,} bytes, which is no configuration of an adapter")
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"{place}: its {CONFIG} cannot be read ({error})") from error
    if not isinstance(config, dict) or not isinstance(config.get("peft_type"), str):
        raise ValueError(f"{place}: its {CONFIG} names no peft_type")
    if config.get("megatron_config"):
        raise ValueError(f"{place}: its {CONFIG} names Python modules to import, which is not done for an adapter")
    return config


def _header(path: Path) -> dict[str, tuple[tuple[int, ...], str]]:
    """Return the shapes and dtypes of a safetensors file, without reading its weights.

    Source: https://github.com/huggingface/safetensors, "Format".

    Raises:
        ValueError: it is no safetensors file.
    """
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            if not 0 < length < min(_LONGEST_HEADER, path.stat().st_size):
                raise ValueError("its header is damaged")
            header = json.loads(file.read(length))
        return {
            name: (tuple(int(n) for n in entry["shape"]), str(entry["dtype"]))
            for name, entry in header.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path}: no safetensors file ({error})") from error


def _fault(adapter: Adapter) -> str:
    """Return how configuration and tensors contradict each other; "" where they do not."""
    kinds = {part: types for part, types in _TELLTALES.items() if any(part in name for name in adapter.tensors)}
    if not adapter.tensors:
        return "it holds no tensor"
    wrong = [(part, types) for part, types in kinds.items() if adapter.kind not in types]
    if wrong:
        part, types = wrong[0]
        return f"peft_type is {adapter.kind}, and its tensors ({part.strip('.')}) are those of {' or '.join(types)}"
    recorded = {kind for types in _TELLTALES.values() for kind in types}
    if adapter.kind in recorded and not kinds:
        return f"peft_type is {adapter.kind}, and it has no tensor of one, as {next(iter(adapter.tensors))}"
    if adapter.kind == "LORA":
        return _fault_of_lora(adapter)
    return ""


def _fault_of_lora(adapter: Adapter) -> str:
    has_magnitudes = any("lora_magnitude_vector" in name for name in adapter.tensors)
    if bool(adapter.config.get("use_dora")) != has_magnitudes:
        says, has = ("DoRA", "no magnitudes") if adapter.config.get("use_dora") else ("plain LoRA", "DoRA's magnitudes")
        return f"use_dora says {says}, and it has {has} (lora_magnitude_vector)"
    rank = adapter.config.get("r")
    # experts in one parameter have an A each in one matrix of many times the rank
    pattern = adapter.config.get("rank_pattern") or adapter.config.get("target_parameters")
    for name, (shape, _) in adapter.tensors.items():
        if ".lora_A." in name and not pattern and len(shape) == 2 and shape[0] != rank:
            return f"r is {rank}, and {name} has rank {shape[0]}"
    return ""


def misfit(adapter: Adapter, layers: Mapping[str, tuple[int, int]], hidden_size: int) -> str:
    """Return why an adapter cannot be put on a base; "" where nothing speaks against it.

    Args:
        adapter: the adapter.
        layers: the base's modules, each with the numbers of its inputs and outputs, or (0, 0) for one without a matrix.
            Embeddings have an output for each token, as the head has.
        hidden_size: of the base.
    """
    for name, (shape, _) in adapter.tensors.items():
        place = _PLACED.match(name)
        # PEFT wraps a module once for each of its parameters
        module = re.sub(r"(\.base_layer)+$", "", place["module"]) if place else ""
        if place and module not in layers:
            return f"it has {name}, and the base has no {module}"
        inputs, outputs = layers[module] if place else (0, 0)
        size, end = (inputs, -1) if place and place["part"].startswith("lora_A") else (outputs, 0)
        is_plain = len(shape) == 2 and not any(adapter.config.get(variant) for variant in _OWN_SHAPES)
        if place and place["part"].startswith("lora_") and is_plain and size and shape[end] != size:
            return (
                f"{name} has shape {'x'.join(map(str, shape))}, and {module} of the base has {inputs} inputs "
                f"and {outputs} outputs"
            )
        saved = _WHOLE.fullmatch(name)
        own = layers.get(saved["module"], (0, 0)) if saved else (0, 0)
        if own != (0, 0) and sorted(own) != sorted(shape):  # Conv1D holds its weight transposed
            return f"{name} has shape {'x'.join(map(str, shape))}, and that of the base {own[1]}x{own[0]}"
        if adapter.kind == "PROMPT_TUNING" and name == "prompt_embeddings" and shape[-1] != hidden_size:
            return f"its prompt has {shape[-1]} numbers for each token, and the base has {hidden_size}"
    return ""


@dataclass(frozen=True, kw_only=True)
class Foreign(Adapted):
    """An adapter of PEFT's that was trained elsewhere: it is scored and never trained."""

    adapter_name: str
    settings: dict[str, Any] = field(hash=False)

    @property
    def origin(self) -> str:
        """Return that it is an adapter of PEFT's."""
        return ORIGIN

    @property
    def merges(self) -> bool:
        """Return whether its type changes weights of the base."""
        return self.settings["type"] not in UNMERGED

    def known_settings(self) -> dict[str, Any]:
        """Return what its configuration says."""
        return self.settings

    @property
    def name(self) -> str:
        """Return the adapter's own name, which stands in the place of a method's."""
        return self.adapter_name

    def peft_config(self, model: PreTrainedModel, setting: Setting) -> PeftConfig:
        """Refuse: it is never attached anew."""
        raise ValueError(f"{self.name}: an adapter from elsewhere is not trained here")

    def expected_trainable(self, model: PreTrainedModel) -> int:
        """Refuse: what trained is read from its file."""
        raise ValueError(f"{self.name}: what an adapter from elsewhere trained is read from its file")

    def restore(self, model: PreTrainedModel, folder: Path) -> Any:
        """Attach the adapter, all of it.

        Raises:
            ValueError: its file lacks tensors of layers that its configuration names, or holds those of others.
        """
        try:
            adapted = super().restore(model, folder)
        except KeyError as error:  # PEFT looks up the modules of `modules_to_save`
            raise ValueError(
                f"{self.name}: its {WEIGHTS} lacks {error.args[0]}, which its {CONFIG} names; save it again with "
                "`save_pretrained`"
            ) from error
        if not adapted.active_peft_config.is_prompt_learning:  # PEFT refuses a prompt that is not whole
            _check_whole(adapted, folder, self.name)
        return adapted


def _check_whole(adapted: Any, folder: Path, name: str) -> None:
    """Refuse an adapter of which PEFT passed over a part with a warning, or with none.

    Raises:
        ValueError: names the first tensors.
    """
    from peft import load_peft_weights, set_peft_model_state_dict
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    device = next(adapted.parameters()).device.type
    result = set_peft_model_state_dict(adapted, load_peft_weights(str(folder), device=device))
    part, missing = f".{PEFT_TYPE_TO_PREFIX_MAPPING[adapted.active_peft_config.peft_type]}", {*result.missing_keys}
    own = {key: id(tensor) for key, tensor in adapted.state_dict(keep_vars=True).items()}
    there = {tensor for key, tensor in own.items() if key not in missing}  # layers of some types share a parameter
    lacking = [key for key in missing if part in key and own.get(key) not in there and not _FROZEN.search(key)]
    unknown = result.unexpected_keys
    for keys, text in ((sorted(lacking), "lacks tensors that"), (unknown, "holds tensors of other layers than")):
        if keys:
            listed = ", ".join(keys[:3]) + (f" and {len(keys) - 3} others" if len(keys) > 3 else "")
            raise ValueError(
                f"{name}: its {WEIGHTS} {text} its {CONFIG} names ({listed}), so that a part of it would be left out; "
                "save it again with `save_pretrained`"
            )


def method_of(adapter: Adapter) -> Foreign:
    """Return an adapter as the method of an experiment."""
    return Foreign(
        adapter_name=adapter.identifier,
        lr=None,
        display=adapter.display,
        settings={"type": adapter.kind, **adapter.settings},
    )
