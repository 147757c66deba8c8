"""Where Hydra finds the launcher that makes several runs at once on this machine: `harness.sweep.local`."""

from __future__ import annotations

from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class LocalLauncher(Launcher):  # type: ignore[misc]
    """Makes runs in slots, each with a device or a part of the cores of its own."""

    def __init__(self, **settings: Any) -> None:
        """Hydra hands the settings over again in `setup`, where they can be refused in a readable way."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's part: what is wrong with the settings is said before anything is planned."""
        from harness.config import config as settings
        from harness.sweep import local

        self._shares = local.shares(settings.checked(local.LocalSpec, config.hydra.launcher, "hydra.launcher"))

    def launch_planned(self, pending: Any, name: str) -> Any:
        """Make the runs."""
        from harness.sweep import sweep

        return sweep.at_once(pending, self._shares)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        """Refuse words in place of what has been checked."""
        raise ValueError("hydra/launcher=local makes runs that hydra/sweeper=cells has checked: leave out the sweeper")
