"""Logging of runs to Trackio's local store: `TRACKIO_DIR=runs/trackio trackio show --project harness`."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextvars import Context
from pathlib import Path
from typing import Any


class Run:
    """Writer of one run, into the database of its project below `runs_dir`/trackio."""

    def __init__(self, runs_dir: str, settings: dict[str, Any]) -> None:
        os.environ["TRACKIO_DIR"] = str(Path(runs_dir).resolve() / "trackio")
        if settings["mode"] == "offline":
            os.environ["HF_HUB_OFFLINE"] = "1"  # or it asks the Hub for the user's name
            for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):  # where it would log to instead
                os.environ.pop(name, None)
        self._project, self._group = settings["project"], settings["group"]
        self._run: Any = None
        self._last = 0

    def begin(self, name: str, config: dict[str, Any], tags: Sequence[str]) -> None:
        """Start a run of its own: a later attempt tells the whole curve again and must not continue an older run."""
        import trackio

        # in a context of its own, since Trackio ends the context's run when it begins another one
        self._run = Context().run(
            trackio.init,
            self._project,
            name=name,
            group=self._group,
            config={**config, "tags": [*tags]},
            resume="never",
            embed=False,
            auto_log_gpu=False,
            auto_log_cpu=False,
        )

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log numbers at an optimizer step."""
        if self._run is not None:
            self._last = max(self._last, step)
            self._run.log(values, step=step)

    def end(self, values: dict[str, Any]) -> None:
        """Write the headline numbers at the last step, and finish the run."""
        if self._run is not None:
            self._run.log({f"summary/{key}": value for key, value in values.items()}, step=self._last)
            self._run.finish()
            self._run = None
