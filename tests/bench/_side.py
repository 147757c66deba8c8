"""`python -m tests.bench._side SIDE STEPS WORD...`: one way to train an experiment, in a process that has it alone.

SIDE: `harness`, its loop; `trl`, TRL's trainer with its defaults; `unsloth`, that trainer on unsloth's model, with
unsloth imported first, as it wants. The last line that is printed is a JSON table: tokens a second, the share of
positions that was real, the peak of memory and, of the harness, operations a position and the device's rate.
Exit code 3: it ran out of memory.
"""

from __future__ import annotations

import json
import resource
import sys
from collections.abc import Callable
from typing import Any

SIDES = ("harness", "trl", "unsloth")
NO_MEMORY = 3


def main() -> int:
    """Train, and print what was found."""
    side, steps, words = sys.argv[1], int(sys.argv[2]), sys.argv[3:]
    if side == "unsloth":
        import unsloth  # noqa: F401  # before transformers, parts of which it replaces
    import torch

    from harness.config.compose import experiments
    from harness.run import inputs

    [(_, experiment)] = experiments(words)
    try:
        result = trained(side, steps, inputs.resolve(experiment), lambda _: None)
    except (torch.OutOfMemoryError, MemoryError):
        return NO_MEMORY
    print(json.dumps(result))
    return 0


def trained(side: str, steps: int, experiment: Any, emit: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    """Train in this process, and return what the table holds."""
    import torch

    from harness.measure import mfu
    from harness.run import worker
    from harness.train.loop import compute_dtype
    from tests.bench import _trainers

    worker.quiet()
    workload = _trainers.Workload(experiment, steps)
    if side != "harness":
        return {**_trainers.trl(workload, 0), "peak_bytes": _peak_bytes(torch)}
    result = _trainers.harness(workload, 0, grouped=False, profile=True)
    result = {"peak_bytes": _peak_bytes(torch), **result}
    rate = mfu.measured(compute_dtype(experiment.train.precision), torch.cuda.is_available())
    if rate is None:
        return {**result, "device_flops_per_second": None, "doubt": "no product could be computed beside the model"}
    return {**result, "device_flops_per_second": rate.flops_per_second, "doubt": rate.doubt}


def _peak_bytes(torch: Any) -> int:
    """The peak allocated on a GPU, the highest resident set on a CPU."""
    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


if __name__ == "__main__":
    sys.exit(main())
