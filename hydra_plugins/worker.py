"""Entry point through which Hydra finds the launcher of workers that share a sweep: `harness.sweep.worker`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class WorkerLauncher(Launcher):  # type: ignore[misc]
    """Takes free runs of a sweep, beside other workers."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings: Hydra passes them again to `setup`, where errors are readable."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings before anything is planned; called by Hydra."""
        from harness.config import config as settings
        from harness.sweep import worker

        self._spec = settings.checked(worker.WorkerSpec, config.hydra.launcher, "hydra.launcher")
        self._made: list[worker.RunKey] = []
        question = settings.sweep_of(config)
        self._sweep = question.name if question else None
        self._runs_dir = Path(config.runs_dir)

    def launch_planned(self, pending: Any, name: str) -> Any:
        """Make the runs that are free."""
        from harness.sweep import worker

        self._sweep = name
        worker.announce(pending)
        return worker.launch(pending, name, self._spec, self._made)

    def exit_code(self, code: int) -> int:
        """Return the exit code of the command: one that was to make a run and found none left says so."""
        from harness.sweep import worker

        code = worker.NONE_LEFT if self._spec.once and not self._made else code
        if self._spec.outcome is not None and self._sweep is not None:
            worker.write_outcome(self._spec.outcome, self._runs_dir, self._sweep, self._made, code)
        return code

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        """Refuse overrides that no sweeper has checked."""
        raise ValueError("hydra/launcher=worker makes runs that hydra/sweeper=cells has checked: leave out the sweeper")
