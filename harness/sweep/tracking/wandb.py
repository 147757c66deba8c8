"""Logging of runs to Weights & Biases."""

from __future__ import annotations

import os
from typing import Any


class Run:
    """Writer of one run, with files below `runs_dir`/wandb."""

    def __init__(self, runs_dir: str, settings: dict[str, Any]) -> None:
        os.environ["WANDB_SILENT"] = "true"
        self._options = {**settings, "dir": runs_dir, "resume": "allow", "reinit": "create_new"}
        self._run: Any = None

    def begin(self, name: str, config: dict[str, Any]) -> None:
        """Start the run with its configuration."""
        import wandb

        told = wandb.Settings(silent=True, console="off")
        self._run = wandb.init(**self._options, id=name, name=name, config=config, settings=told)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log an optimizer step."""
        if self._run is not None:
            self._run.log(values, step=step)

    def end(self, values: dict[str, Any]) -> None:
        """Write the headline numbers and finish the run."""
        if self._run is not None:
            self._run.summary.update(values)
            self._run.finish(exit_code=0 if values["status"] in ("ok", "skipped") else 1)
            self._run = None
