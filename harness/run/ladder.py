"""What is tried, one after the other, when training runs out of memory."""

import dataclasses

from harness.config.experiment import Experiment
from harness.records.specs import Rung


def ladder(experiment: Experiment) -> tuple[Rung, ...]:
    """What was asked for, and what is tried in its place each time memory runs out; the last one's end is the run's."""
    spec = experiment.train
    whole, asked = spec.global_batch_size // experiment.launch.num_processes, spec.micro_batch_size
    smaller = [rows for rows in range(asked - 1, 0, -1) if whole % rows == 0] if spec.oom.smaller_micro_batches else []
    sizes = (asked, *smaller)
    again = spec.oom.gradient_checkpointing and not spec.gradient_checkpointing and _may_checkpoint(experiment)
    shorter = sorted({length for length in spec.oom.shorter_rows if length < spec.max_length}, reverse=True)
    return (
        *(Rung(rows, spec.gradient_checkpointing) for rows in sizes),
        *(Rung(rows, True) for rows in sizes if again),
        *(Rung(sizes[-1], spec.gradient_checkpointing or again, length) for length in shorter),
    )


def instead(experiment: Experiment) -> Experiment | None:
    """What is trained beside what did not fit, where that was asked for and there is such a method."""
    method = experiment.method.quantised() if experiment.train.oom.quantised_base else None
    return None if method is None else dataclasses.replace(experiment, method=method)


def _may_checkpoint(experiment: Experiment) -> bool:
    try:
        experiment.method.check_training(dataclasses.replace(experiment.train, gradient_checkpointing=True))
    except ValueError:
        return False
    return True
