"""Scores of several adapters on one base that stays in memory. Imports the whole stack, in a process of its own.

An adapter is attached, scored and taken off again. The base is loaded once, and again only if an adapter has changed
it: some initializations replace base weights. Scores are those of a process for each adapter, to the bit.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
import traceback
from collections.abc import Callable, Sequence
from typing import Any

import torch
from peft import LoraConfig
from peft.utils.transformers_weight_conversion import convert_peft_adapter_state_dict_for_transformers
from transformers.pytorch_utils import Conv1D

from harness.config.experiment import Evaluation, Experiment
from harness.records.events import Emit, PhaseStarted
from harness.records.settings import ModelSpec
from harness.run import device_map, foreign, isolate, provenance
from harness.run.evaluations import Scores
from harness.run.foreign import Adapter
from harness.run.worker import quiet, write_evaluation
from harness.sources import models
from harness.train.loop import compute_dtype

Base = dict[str, tuple[int, int, int]]  # parameter -> its identity, address and version


def execute(
    experiments: Sequence[Experiment], wanted: Sequence[tuple[Evaluation, ...]], attempts: Sequence[str], emit: Emit
) -> list[dict[str, Any]]:
    """Make the wanted evaluations of each experiment, all of one base. An adapter that fails leaves the others alone.

    Returns:
        For each its parameters with those of the base, the seconds of loading, the number of times that the base has
        been loaded so far, what it ran on, and the reason for which it failed; "" if it did not.
    """
    quiet()
    first = experiments[0]
    tokenizer = models.tokenizer(first.model)
    options = {"dtype": compute_dtype(first.train.precision), **device_map.options(first)}
    resident = Resident(lambda: models.load(first.model, options))
    made = []
    scores: _Swapped | None = None
    for experiment, evaluations, attempt in zip(experiments, wanted, attempts, strict=True):
        emit(PhaseStarted("load"))
        start = time.perf_counter()
        base = resident.base()
        total = sum(parameter.numel() for parameter in base.parameters())
        seconds, reason = 0.0, ""
        try:
            scores = _Swapped(
                experiment, experiment.method.restore(base, experiment.weights_folder).eval(), tokenizer, emit
            )
            seconds = time.perf_counter() - start
            for evaluation in evaluations:
                emit(PhaseStarted("evaluate"))
                write_evaluation(experiment, evaluation, scores.score, attempt, emit)
            model, scores.model = scores.model, None
            resident.take_back(model)
        except Exception as error:  # any error ends this adapter only
            traceback.print_exc()
            reason = isolate.one_line(error)
        if reason:  # the error is gone, and with it what its frames hold
            base = scores = model = None
            resident.give_up()
        facts = {"base_parameters": total, "load_seconds": seconds, "base_loads": resident.loads}
        made.append({**facts, "device": provenance.device(), "reason": reason})
    return made


def misfits(adapters: Sequence[tuple[Adapter, ModelSpec]], emit: Emit) -> list[str]:
    """Return why adapters do not fit their bases, from the shapes of both. No weights are loaded."""
    del emit
    quiet()
    skeletons: dict[ModelSpec, Any] = {}
    reasons = []
    for adapter, spec in adapters:
        if spec not in skeletons:
            skeletons[spec] = models.skeleton(spec, torch.float32)
        if reason := misfit(adapter, skeletons[spec]):
            reasons.append(
                f"{adapter.place}: it is of another base than {spec.name}: {reason}; give its own: --base MODEL"
            )
    return reasons


def misfit(adapter: Adapter, base: Any) -> str:
    """Return why an adapter cannot be put on a base, of which the weights need not be there; "" where nothing does."""
    layers = {name: _sizes(module) for name, module in base.named_modules()}
    return foreign.misfit(_as_loaded(adapter, base), layers, base.get_input_embeddings().weight.shape[1])


def _as_loaded(adapter: Adapter, base: Any) -> Adapter:
    """Return an adapter with the tensors that PEFT makes of its own, as it does for LoRA.

    Transformers 5 holds the experts of a layer in one parameter, and adapters from before have matrices for each.
    """
    if adapter.kind != "LORA":
        return adapter
    own = {name: torch.empty(shape, device="meta") for name, (shape, _) in adapter.tensors.items()}
    with contextlib.suppress(ValueError, RuntimeError):  # it is no adapter of this base, and its own names say so
        made = convert_peft_adapter_state_dict_for_transformers(base, LoraConfig(), own)
        return dataclasses.replace(adapter, tensors={name: (tuple(t.shape), "F32") for name, t in made.items()})
    return adapter


def _sizes(module: torch.nn.Module) -> tuple[int, int]:
    """Return the numbers of inputs and outputs of a linear layer or an embedding; (0, 0) for another module."""
    if isinstance(module, torch.nn.Linear):
        return module.in_features, module.out_features
    if isinstance(module, Conv1D):
        return module.nx, module.nf
    if isinstance(module, torch.nn.Embedding):
        return module.embedding_dim, module.num_embeddings
    return 0, 0


class _Swapped(Scores):
    """One adapter on the base."""

    def __init__(self, experiment: Experiment, model: Any, tokenizer: Any, emit: Emit) -> None:
        self.experiment, self.model, self.tokenizer, self.emit = experiment, model, tokenizer, emit
        self.heldout = {}


class Resident:
    """A base model that stays in memory for as long as no adapter changes it.

    Attributes:
        loads: how often it was loaded.
    """

    def __init__(self, load: Callable[[], Any]) -> None:
        self.loads = 0
        self._load = load
        self._base: Any = None
        self._before: Base = {}

    def base(self) -> Any:
        """Return the base, loaded if it is not there or was changed."""
        if self._base is None:
            self._base = self._load()
            self._before = _fingerprint(self._base)
            self.loads += 1
        return self._base

    def take_back(self, model: Any) -> None:
        """Take an adapter off. A base of which a parameter was replaced or written to is given up."""
        inner = getattr(model, "base_model", model)
        plain = inner.unload() if hasattr(inner, "unload") else model.get_base_model()
        if hasattr(plain, "peft_config"):
            del plain.peft_config
        if plain is not self._base or _fingerprint(plain) != self._before:
            self.give_up()

    def give_up(self) -> None:
        """Load the base anew when it is asked for the next time, as after an error that left a part of an adapter."""
        self._base = None
        device_map.clear()


def _fingerprint(base: Any) -> Base:
    return {name: (id(p), p.data_ptr(), p._version) for name, p in base.named_parameters()}
