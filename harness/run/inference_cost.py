"""Cost of inference with a run's result, measured and recorded beside the run's record as `inference.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import torch

from harness.config.experiment import Experiment
from harness.measure.memory import Phases
from harness.records import record
from harness.records.record import InferenceRecord
from harness.run import inference, provenance


class Making(NamedTuple):
    """Tokenizer, rows, phases and model factories of the process that runs an experiment."""

    tokenizer: Any
    rows: Sequence[dict[str, list[int]]]  # held out for validation
    phases: Phases
    base: Callable[[], Any]  # loads the base
    merged: Callable[[], Any]  # loads the base and merges the update into it


def keep(experiment: Experiment, weights_from: str | None, made: Making) -> None:
    """Measure the cost of inference and write its record."""
    method, weights = experiment.method, experiment.weights_folder
    merges = method.trains and method.merges
    use = inference.Use(
        spec=experiment.inference,
        precision=experiment.train.precision,
        tokenizer=made.tokenizer,
        prompts=_prompts(made.rows),
        phases=made.phases,
        base=made.base,
        attached=(lambda: _attached(experiment, made.base())) if method.trains else None,
        fixed_weights=method.fixed_weights,
        merged=made.merged if merges else None,
        folder=weights,
    )
    found = InferenceRecord(
        schema=record.SCHEMA,
        recipe_id=experiment.recipe_id,
        seed=experiment.run_seed,
        weights_from=weights_from,
        settings=inference.settings_of(experiment.inference),
        precision=experiment.train.precision,
        unmerged_reason="" if merges else _unmerged(experiment),
        provenance={**provenance.facts(), **provenance.device()},
        **inference.measure(use),
    )
    record.write(found, experiment.folder / "inference.json")


def _attached(experiment: Experiment, base: Any) -> Any:
    """Return the base with the update attached, and adapters in the dtype that autocast computes in.

    Autocast converts weights without gradients in each pass, that is for each token. The cost of these conversions
    would count as part of the method. Methods that read the dtype from their inputs keep their adapters as they are.
    """
    model = experiment.method.restore(base, experiment.weights_folder)
    if experiment.train.precision == "bf16" and experiment.method.leaves_inputs:
        for layer in model.modules():
            if isinstance(layer, torch.nn.Linear) and layer.weight.dtype == torch.float32:
                layer.to(torch.bfloat16)
    return model


def _unmerged(experiment: Experiment) -> str:
    if not experiment.method.trains:
        return "nothing was trained"
    return f"method={experiment.method.name} cannot be merged into the base model"


def _prompts(rows: Sequence[dict[str, list[int]]]) -> list[list[int]]:
    """Return the tokens of each row before its answer; the whole row if the answer starts at its first token."""
    starts = [row["completion_mask"].index(1) for row in rows]
    return [row["input_ids"][: start or None] for row, start in zip(rows, starts, strict=True)]
