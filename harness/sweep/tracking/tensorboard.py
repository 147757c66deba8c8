"""Event files of runs for TensorBoard: `tensorboard --logdir runs/tensorboard`."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.records.event_files import EventFile


class Run:
    """Writer of one run, in its own folder below `runs_dir`/tensorboard."""

    def __init__(self, runs_dir: str, settings: dict[str, Any]) -> None:
        del settings  # account settings, which event files do not need
        self._folder = Path(runs_dir) / "tensorboard"
        self._file: EventFile | None = None
        self._stepped = False

    def begin(self, name: str, config: dict[str, Any], tags: Sequence[str]) -> None:
        """Start the run's event file with its settings and tags."""
        self._file, self._stepped = EventFile(self._folder / name), False
        text = json.dumps(config, indent=1, sort_keys=True, default=str)
        self._file.text("recipe", "\n".join(f"    {line}" for line in text.splitlines()))
        self._file.text("tags", ", ".join(tags))

    def step(self, step: int, values: dict[str, float]) -> None:
        """Log an optimizer step. The first one ends the curves of an earlier attempt."""
        if self._file is not None:
            if not self._stepped:
                self._file.restart(step)
            self._stepped = True
            self._file.numbers(values, step)

    def end(self, values: dict[str, Any]) -> None:
        """Write the headline numbers and close the file."""
        if self._file is not None:
            numbers = {f"summary/{key}": float(value) for key, value in values.items() if not isinstance(value, str)}
            self._file.numbers(numbers)
            self._file.text("status", f"{values['status']} {values.get('reason', '')}".strip())
            self._file.close()
            self._file = None
