"""Entry point through which Hydra finds the launcher of concurrent runs on this machine: `harness.sweep.local`."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):  # type: ignore[misc]
    """Makes runs in slots, each with its own device or share of the cores."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings: Hydra passes them again to `setup`, where errors are readable."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings before anything is planned; called by Hydra."""
        from harness.config import config as settings
        from harness.sweep import local

        self._shares = local.shares(settings.checked(local.LocalSpec, config.hydra.launcher, "hydra.launcher"))

    def launch_planned(self, pending: Any, name: str) -> Any:
        """Make the runs."""
        from harness.sweep import sweep

        return sweep.at_once(pending, self._shares)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        """Refuse overrides that no sweeper has checked."""
        raise ValueError("hydra/launcher=local makes runs that hydra/sweeper=cells has checked: leave out the sweeper")
