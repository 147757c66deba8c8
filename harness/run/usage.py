"""What using a run's result costs, measured and kept beside the run's record as `inference.json`."""

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
    """What the process that runs an experiment has at hand for it."""

    tokenizer: Any
    rows: Sequence[dict[str, list[int]]]  # held out for validation
    phases: Phases
    base: Callable[[], Any]  # loads the base
    merged: Callable[[], Any]  # loads it and folds the update into it


def keep(experiment: Experiment, weights_from: str | None, made: Making) -> None:
    """Measure and write."""
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
    """Return the update beside the base, with adapters in the dtype in which autocast multiplies by them.

    Autocast converts weights that take no gradient in each pass, that is for each token: as many conversions as there
    are adapters would count as a part of the method. Not where a method reads its dtype from its inputs.
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
    """What stands before the answer; of a row that is learnt from its first token on, the whole row."""
    starts = [row["completion_mask"].index(1) for row in rows]
    return [row["input_ids"][: start or None] for row, start in zip(rows, starts, strict=True)]
