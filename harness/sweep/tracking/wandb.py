"""Logging of runs to Weights & Biases."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

_LONGEST_GROUP = 128  # characters that W&B accepts
_SUMMARIES = {"train/loss": "min", "val/loss": "min", "train/tokens_per_second": "mean"}


class Run:
    """Writer of one run, with files below `runs_dir`/wandb."""

    def __init__(self, runs_dir: str, settings: dict[str, Any]) -> None:
        os.environ["WANDB_SILENT"] = "true"
        group = settings["group"] and settings["group"][:_LONGEST_GROUP]
        self._options = {**settings, "group": group, "dir": runs_dir, "reinit": "create_new", "job_type": "train"}
        self._run: Any = None

    def begin(self, name: str, config: dict[str, Any], tags: Sequence[str]) -> None:
        """Start a run of its own: a later attempt tells the whole curve again and must not continue an older run."""
        import wandb

        quiet = wandb.Settings(silent=True, console="off")
        identity = f"{name}-{datetime.now(UTC):%Y%m%d-%H%M%S-%f}"
        self._run = wandb.init(
            **self._options, id=identity, name=name, config=config, tags=[*tags], settings=quiet, resume="never"
        )
        for metric, kind in _SUMMARIES.items():
            self._run.define_metric(metric, summary=kind)

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log numbers at an optimizer step."""
        if self._run is not None:
            self._run.log(values, step=step)

    def end(self, values: dict[str, Any]) -> None:
        """Write the headline numbers and finish the run."""
        if self._run is not None:
            self._run.summary.update(values)
            self._run.finish(exit_code=0 if values["status"] in ("ok", "skipped") else 1)
            self._run = None
