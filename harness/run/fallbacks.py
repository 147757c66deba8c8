"""Fallbacks for training that runs out of memory, in the order in which they are tried."""

import dataclasses

from harness.config.experiment import Experiment
from harness.methods.contexts import TrainedWith
from harness.records.settings import Fallback


def ladder(experiment: Experiment) -> tuple[Fallback, ...]:
    """Return the settings as configured and their fallbacks, each tried when the one before runs out of memory.

    The end of the last one is the end of the run.
    """
    spec = experiment.train
    whole, asked = spec.global_batch_size // experiment.launch.num_processes, spec.micro_batch_size
    smaller = [rows for rows in range(asked - 1, 0, -1) if whole % rows == 0] if spec.oom.smaller_micro_batches else []
    sizes = (asked, *smaller)
    again = spec.oom.gradient_checkpointing and not spec.gradient_checkpointing and _may_checkpoint(experiment)
    shorter = sorted({length for length in spec.oom.max_lengths if length < spec.max_length}, reverse=True)
    return (
        *(Fallback(rows, spec.gradient_checkpointing) for rows in sizes),
        *(Fallback(rows, True) for rows in sizes if again),
        *(Fallback(sizes[-1], spec.gradient_checkpointing or again, length) for length in shorter),
    )


def instead(experiment: Experiment) -> Experiment | None:
    """Return the experiment with a quantized base, to train in addition to one that did not fit.

    Return None if `oom.quantized_base` is off or the method has no quantized form.
    """
    method = experiment.method.quantized() if experiment.train.oom.quantized_base else None
    return None if method is None else dataclasses.replace(experiment, method=method)


def _may_checkpoint(experiment: Experiment) -> bool:
    spec = dataclasses.replace(experiment.train, gradient_checkpointing=True)
    return not experiment.method.unsupported(TrainedWith(spec))
