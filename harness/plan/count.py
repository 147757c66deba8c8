"""Counts of trained parameters and of layers, from models that are built on the meta device."""

from __future__ import annotations

import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import torch
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from harness.config.experiment import Experiment
from harness.measure import hardware
from harness.methods import targets
from harness.methods.base import Setting
from harness.methods.contexts import OnModel, TrainedWith
from harness.methods.targets import grouped
from harness.records import base
from harness.records.events import Emit, Progress
from harness.records.settings import ModelSpec
from harness.run import worker
from harness.sources import models
from harness.sources.random_weights import byte_tokenizer, configuration


def cells(experiments: list[Experiment], emit: Emit) -> list[dict[str, Any]]:
    """Return one table of counts per experiment.

    If nothing can be trained, `unsupported` gives the reason and the counts are None.

    Raises:
        ValueError: a cell does not fit its model; names the method and the model.
    """
    warnings.simplefilter("ignore")
    result = []
    for position, experiment in enumerate(experiments):
        emit(Progress(position, len(experiments)))
        try:
            result.append(_count(experiment))
        except ValueError as error:
            where = f"method={experiment.method.name} model={experiment.model.name}"
            raise ValueError(f"{where}: {error}") from error
    return result


def _count(experiment: Experiment) -> dict[str, Any]:
    method = experiment.method
    method.require(TrainedWith(experiment.train))
    model = skeleton(experiment.model)
    facts = {"method": method.name, "model": experiment.model.name, "base_parameters": _elements(model.parameters())}
    reason = method.unsupported(OnModel(model))
    if reason:
        return {**facts, "unsupported": reason, **dict.fromkeys(_COUNTS)}
    modules = {name for name, _ in model.named_modules() if name}
    expected = method.expected_trainable(model)
    attached = method.attach(model, setting(_settled(experiment)))
    trained = {name: p for name, p in attached.named_parameters() if p.requires_grad}
    total = _elements(attached.parameters())
    trainable = _elements(trained.values())
    adapted = _owners(trained, modules)
    counts = (trainable, expected, total, 100 * trainable / total, len(adapted), _patterns(adapted))
    return {**facts, "unsupported": None, **dict(zip(_COUNTS, counts, strict=True))}


_COUNTS = (
    "trainable_parameters", "expected_trainable_parameters", "total_parameters", "trainable_percent",
    "adapted_modules", "targets",
)  # fmt: skip


def _settled(experiment: Experiment) -> Experiment:
    """Return the experiment with a precision in place of "auto". No count depends on it."""
    import dataclasses

    if experiment.train.precision != "auto":
        return experiment
    return dataclasses.replace(experiment, train=dataclasses.replace(experiment.train, precision=hardware.precision()))


def _elements(parameters: Iterable[Any]) -> int:
    return sum(parameter.numel() for parameter in parameters)


def _owners(trained: Iterable[str], modules: set[str]) -> list[str]:
    """Return the base model's modules that hold trained parameters, in order. Modules of the adapter do not count."""
    owners: dict[str, None] = {}
    for name in trained:
        parts = name.split(".")
        names = [".".join(parts[a:b]) for b in range(len(parts), 0, -1) for a in range(b)]
        owner = next((candidate for candidate in names if candidate in modules), None)
        if owner is not None:
            owners[owner] = None
    return list(owners)


def _patterns(names: Iterable[str]) -> dict[str, int]:
    return {pattern: len(members) for pattern, members in grouped(names).items()}


def layers(specs: list[ModelSpec], emit: Emit) -> list[dict[str, Any]]:
    """Return the linear layers of each model, grouped, with their shapes, counts and the presets that cover them."""
    warnings.simplefilter("ignore")
    result = []
    for position, spec in enumerate(specs):
        emit(Progress(position, len(specs)))
        model = skeleton(spec)
        result.append({"model": spec.name, "presets": list(targets.PRESETS), "layers": _layers(model)})
    return result


def _layers(model: Any) -> list[dict[str, Any]]:
    linear = {name: targets.shape(module) for name, module in targets.linear_modules(model)}
    stacked = targets.expert_parameters(model)
    covered = {preset: _covered(model, preset) for preset in targets.PRESETS}
    kinds = [*grouped(linear).items(), *grouped(stacked).items()]
    rows = [_row(pattern, names, {**linear, **stacked}, covered) for pattern, names in kinds]
    head = model.get_output_embeddings()
    if head is None or not hasattr(head, "weight"):
        return rows
    name = next(name for name, module in model.named_modules() if module is head)
    tied = head.weight is model.get_input_embeddings().weight
    return [*rows, {**_row(name, [name], {name: targets.shape(head)}, {}), "output_head": True, "tied": tied}]


def _row(pattern: str, names: list[str], shape_of: dict[str, Any], covered: dict[str, set[str]]) -> dict[str, Any]:
    """Return the row of one group of layers. If their shapes differ, every shape is listed."""
    shapes = list(dict.fromkeys(shape_of[name] for name in names))
    experts = shapes[0][0] if len(shapes[0]) == 3 else None
    return {
        "pattern": pattern,
        "count": len(names),
        "shapes": [{"d_in": shape[-2], "d_out": shape[-1]} for shape in shapes],
        "experts": experts,  # matrices per parameter, if the experts of a layer share one parameter
        "presets": [preset for preset, members in covered.items() if set(names) <= members],
        "output_head": False,
        "tied": False,
    }


def _covered(model: Any, preset: str) -> set[str]:
    try:
        modules, experts = targets.resolve_all(model, preset)
    except ValueError:  # the preset matches nothing in this model
        return set()
    return {*modules, *experts}


def skeleton(spec: ModelSpec) -> PreTrainedModel:
    """Return the model on the meta device.

    Its shapes come from its folder, else from its YAML, else from the config.json of the Hub.

    Raises:
        ValueError: none of them is available.
    """
    return models.skeleton_of(_configuration(spec), torch.bfloat16, spec.trust_remote_code)


def tokenizer(spec: ModelSpec) -> PreTrainedTokenizerBase:
    """Return the tokenizer of a local folder; else a byte-level tokenizer, since no count depends on it."""
    return models.tokenizer(spec) if spec.source == "path" else byte_tokenizer()


def setting(experiment: Experiment) -> Setting:
    """Return the facts that a method may use in a plan."""
    facts = worker.setting(experiment, tokenizer(experiment.model), [])
    return replace(facts, own_tokenizer=experiment.model.source == "path")


def _configuration(spec: ModelSpec) -> Any:
    table = spec.architecture
    is_published = table is not None and spec.source != "path" and table.get("of") == spec.hub_id
    return configuration(spec) if is_published or spec.weights == "random" else _from_files(spec)


def _from_files(spec: ModelSpec) -> Any:
    at = replace(spec, revision=spec.revision or "main")
    try:
        name, where = models.location(at)
        return AutoConfig.from_pretrained(name, **where, trust_remote_code=spec.trust_remote_code)
    except (OSError, KeyError, ValueError) as error:
        reason = base.first_line(error)
        raise ValueError(
            f"model={spec.name}: nothing here tells its shapes ({reason}): give model.source=path "
            "model.path=<folder with config.json>, or a model whose YAML has an architecture"
        ) from error
