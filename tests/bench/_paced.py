"""`python -m tests.bench._paced WORD...`: an experiment that trains one optimizer step for each line of its input.

A line of output answers each: the first says that the model is loaded and warm, every later one the step's seconds.
The process waits between the steps, so that several of them, each with an environment of its own, can take turns.
"""

from __future__ import annotations

import sys
import tempfile
import time
from dataclasses import replace
from typing import Any

WARM_STEPS = 2
_ENDLESS = 1_000_000


class Pace:
    """A forward hook that ends a step, waits for the next line and begins another."""

    def __init__(self) -> None:
        self._passes, self._began = 0, 0.0

    def __call__(self, *_: Any) -> None:
        """Answer the line before and wait for another.

        Raises:
            SystemExit: there is none.
        """
        self._passes += 1
        if self._passes <= WARM_STEPS:
            return
        print("warm" if self._passes == WARM_STEPS + 1 else time.perf_counter() - self._began, flush=True)
        if not sys.stdin.readline():
            raise SystemExit
        self._began = time.perf_counter()


def main() -> None:
    """Train until there is no more input."""
    from harness.config.compose import experiments
    from harness.run import inputs, worker
    from harness.train.loop import Job, train
    from tests.bench._trainers import Workload

    worker.quiet()
    [(_, experiment)] = experiments(sys.argv[1:])
    workload = Workload(inputs.resolve(experiment), 1)
    model = workload.model()
    model.register_forward_pre_hook(Pace())
    spec = replace(workload.experiment.train, max_steps=_ENDLESS, epochs=None)
    with tempfile.TemporaryDirectory() as scratch:
        job = Job(
            model=model, method=workload.experiment.method, rows=workload.rows, spec=spec, seed=0,
            tokenizer=workload.tokenizer, validate=lambda: 0.0, emit=lambda _: None, scratch=scratch, profile=False,
        )  # fmt: skip
        train(job)


if __name__ == "__main__":
    main()
