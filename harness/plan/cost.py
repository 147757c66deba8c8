"""Hours and price of a planned run: its steps times the time of one. Imports nothing heavy."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from harness.config.experiment import Experiment

HOUR = 3600.0


@dataclass(frozen=True)
class Basis:
    """Assumptions of planned hours beside the step.

    Attributes:
        rows: training and validation rows of the data; None: unknown, so that only runs of max_steps have hours.
        price: of a device hour; None: unknown.
    """

    rows: int | None = None
    price: float | None = None


def steps(experiment: Experiment, rows: int | None) -> int | None:
    """Return the optimizer steps of a run; None where they depend on rows that are not known."""
    train, data = experiment.train, experiment.data
    if train.max_steps is not None:
        return train.max_steps
    if rows is None or train.epochs is None:
        return None
    used = min(rows, data.max_rows) if data.max_rows is not None else rows
    used = math.floor(used * (1 - data.validation_fraction))
    return math.ceil(math.ceil(used / train.global_batch_size) * train.epochs)


def of_plan(plan: dict[str, Any] | None, experiment: Experiment, basis: Basis) -> dict[str, Any]:
    """Return `steps`, `hours` of all devices and `price` of a run's training; None is unknown. Evaluation is not in it.

    Every row counts as `train.max_length` tokens, so that the hours are an upper limit at that share of the peak.
    """
    number = steps(experiment, basis.rows) if experiment.method.trains else None
    seconds = (plan or {}).get("step_seconds")
    hours = None if number is None or seconds is None else number * seconds * experiment.launch.num_processes / HOUR
    return {
        "steps": number,
        "hours": hours,
        "price": None if hours is None or basis.price is None else hours * basis.price,
    }
