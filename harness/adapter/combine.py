"""Combination of several adapters of one base into one, with PEFT's `add_weighted_adapter`."""

from __future__ import annotations

import inspect
import json
import math
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from harness.adapter.load import (
    Trained,
    compare,
    download,
    find,
    logits,
    on_base,
    plain_base,
    quantization,
    whole_folder,
)
from harness.records.events import Emit, PhaseStarted
from harness.records.record import write_text
from harness.records.untrusted import escaped, inline_code
from harness.run import model_card
from harness.sources import models

_COMBINED = "combined"
_CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga", "loftq")  # initializations of PEFT's
_BESIDE = ("modules_to_save", "lora_bias", "trainable_token_indices")  # settings of what trains beside A and B


def combine(
    folders: Sequence[Path], weights: Sequence[float], how: dict[str, Any], base: Sequence[str], out: Path, emit: Emit
) -> dict[str, Any]:
    """Write the combined adapter as a PEFT folder.

    `how` holds `combination_type` and, for types that prune, `density`.

    Returns:
        `combination_type`, `rank`, `relative_distance` of the combined update from the weighted sum of the updates
        (None if PEFT cannot compute an update), and the largest difference of logits after reading the adapter back.

    Raises:
        ValueError: the adapters have different bases or types, or one that cannot be combined; names them.
    """
    runs = [on_base(find(folder), base) for folder in folders]
    _check_alike(runs)
    download(runs[0])
    emit(PhaseStarted("loading"))
    model = _loaded(runs)
    emit(PhaseStarted("combining"))
    names = [_named_adapter(position) for position in range(len(runs))]
    _combine(model, names, weights, how)
    distance = _distance(model, names, weights)
    tokenizer = models.tokenizer(runs[0].experiment.model)
    model.set_adapter(_COMBINED)
    before = logits(model.eval(), tokenizer)
    with whole_folder(out) as temporary:
        _save(model, temporary)
        config = model.peft_config[_COMBINED]
        model_card.name_base(temporary, _model(runs[0]))
        write_text(_card(runs, weights, how), temporary / model_card.CARD)
        model.load_adapter(str(temporary), adapter_name="again")
        model.set_adapter("again")
        difference = compare(before, logits(model.eval(), tokenizer))
        apart = difference["largest_difference"]
        assert apart <= 1e-4 * max(1.0, difference["largest_logit"]), f"written, it reads back otherwise: {apart}"
    return {**how, "rank": getattr(config, "r", None), "relative_distance": distance, **difference}


def _check_alike(runs: Sequence[Trained]) -> None:
    first = runs[0]
    for run in runs:
        config = _config(run)
        if lost := lost_by_combining(config):
            raise ValueError(f"{run.folder}: {lost}. Merge it instead")
        for what, actual, expected in (
            ("base model", _named(run), _named(first)),
            ("quantization of the base", quantization(run) or "unquantized", quantization(first) or "unquantized"),
            ("type", config["peft_type"], _config(first)["peft_type"]),
            ("invocation", *(str(c.get("alora_invocation_tokens")) for c in (config, _config(first)))),
        ):
            if actual != expected:
                raise ValueError(
                    f"adapters with another {what} cannot be combined: {run.folder} has {actual}, "
                    f"{first.folder} has {expected}"
                )


def lost_by_combining(config: Mapping[str, Any]) -> str:
    """Return what PEFT would drop of an adapter, or get wrong, where it combines several; "" if nothing."""
    if config.get("use_dora"):
        return "a weight-decomposed adapter (use_dora) cannot be combined: PEFT would drop its magnitudes"
    init = str(config.get("init_lora_weights"))
    if init.startswith(_CHANGE_THE_BASE):
        return (
            f"an adapter with init_lora_weights={init} cannot be combined: its A and B belong to a base that PEFT "
            "changes as it loads them, and each further adapter would change it once more"
        )
    beside = [name for name in _BESIDE if config.get(name)]
    if config.get("bias") not in (None, "none"):
        beside.append(f"bias={config['bias']}")
    if beside:
        return f"an adapter that trains more than A and B ({', '.join(beside)}) cannot be combined: PEFT would drop it"
    return ""


def _config(run: Trained) -> dict[str, Any]:
    path = run.weights / "adapter_config.json"
    if not path.is_file():
        raise ValueError(f"{run.folder}: method={run.record.method} saves no PEFT adapter, and only those are combined")
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return config


def _loaded(runs: Sequence[Trained]) -> Any:
    """Return the plain base model with the adapter of every run loaded."""
    model = PeftModel.from_pretrained(plain_base(runs[0]), str(runs[0].weights), adapter_name=_named_adapter(0))
    for position, run in enumerate(runs[1:], 1):
        model.load_adapter(str(run.weights), adapter_name=_named_adapter(position))
    return model


def _named_adapter(position: int) -> str:
    """Return an adapter name that no module has. PEFT does not save layers whose number is another adapter's name."""
    return f"of_run_{position}"


def _combine(model: Any, names: Sequence[str], weights: Sequence[float], how: dict[str, Any]) -> None:
    """Add the combined adapter.

    PEFT copies the first adapter's configuration with lora_alpha = r. This gives a scaling of 1 only without rsLoRA.
    """
    tuner = model.base_model
    kind = model.peft_config[names[0]].peft_type.value
    add = getattr(tuner, "add_weighted_adapter", None)
    if add is None:
        raise ValueError(f"PEFT offers no combination of {kind} adapters")
    parameters = inspect.signature(add).parameters
    options = {key: value for key, value in how.items() if key in parameters}
    if "combination_type" not in parameters and "adapters" in parameters:
        how["combination_type"] = "linear"  # the only type that this tuner has
    torch.manual_seed(0)  # some types drop entries at random
    try:
        add(list(names), list(weights), adapter_name=_COMBINED, **options)
    except (TypeError, ValueError, RuntimeError) as error:
        raise ValueError(f"{kind} adapters cannot be combined like that: {error}") from error
    config = model.peft_config[_COMBINED]
    if getattr(config, "use_rslora", False):
        config.use_rslora = False
        for layer in _layers(model):
            layer.scaling[_COMBINED] = config.lora_alpha / config.r
    config.inference_mode = True


def _layers(model: Any) -> list[Any]:
    """Return the adapted layers that can compute an adapter's update."""
    return [m for m in model.modules() if hasattr(m, "get_delta_weight") and hasattr(m, "scaling")]


def _distance(model: Any, names: Sequence[str], weights: Sequence[float]) -> float | None:
    """Return the norm of (combined update - weighted sum), relative to the norm of the weighted sum.

    None if a layer is not a LoRA layer or the weighted sum is zero.
    """
    apart = whole = 0.0
    for layer in _layers(model):
        if not hasattr(layer, "lora_A"):
            return None
        own = {*layer.lora_A, *layer.lora_embedding_A}  # of a linear layer, or of embeddings
        inside = [(w, layer.get_delta_weight(n)) for n, w in zip(names, weights, strict=True) if n in own]
        expected = sum(w * update for w, update in inside)
        apart += float((layer.get_delta_weight(_COMBINED) - expected).square().sum())
        whole += float(torch.as_tensor(expected).square().sum())
    return math.sqrt(apart / whole) if whole else None


def _save(model: Any, folder: Path) -> None:
    """Save the combined adapter into `folder` itself. PEFT writes an adapter that has a name into a subfolder."""
    model.save_pretrained(str(folder), selected_adapters=[_COMBINED])
    for path in (folder / _COMBINED).iterdir():
        shutil.move(path, folder / path.name)
    (folder / _COMBINED).rmdir()


def _model(run: Trained) -> dict[str, Any]:
    model: dict[str, Any] = run.record.config["model"]
    return model


def _named(run: Trained) -> str:
    return f"{run.experiment.model.name} ({run.experiment.model.content})"


def _card(runs: Sequence[Trained], weights: Sequence[float], how: dict[str, Any]) -> str:
    model = _model(runs[0])
    settings = ", ".join(f"{key} {value}" for key, value in how.items() if value is not None)
    parts = [
        model_card.front_matter(model, "peft", [run.record.method for run in runs[:1]]),
        f"# {len(runs)} adapters of {escaped(model['name'])} combined",
        f"Made by PEFT's `add_weighted_adapter` ({escaped(settings)}). The combination itself has not been scored.",
        "## Base model\n\n" + model_card.base_lines(model),
    ]
    for run, weight in zip(runs, weights, strict=True):
        data = run.record.config["data"]
        parts.append(
            f"## Weight {weight:g}: {escaped(run.record.method)} on {escaped(data['name'])}\n\n"
            f"- recipe: {inline_code(run.record.recipe_id)}, seed {run.record.seed}\n"
            f"- {model_card.data_line(data)}\n\n" + model_card.score_table(model_card.scores(run.folder, run.record))
        )
    return "\n\n".join(parts) + "\n"
