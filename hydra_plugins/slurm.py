"""Entry point through which Hydra finds the launcher of SLURM jobs: `harness.sweep.cluster.slurm`."""

from __future__ import annotations

import os
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):  # type: ignore[misc]
    """Submits each run as a job of an array."""

    def __init__(self, **settings: Any) -> None:
        """Ignore the settings: Hydra passes them again to `setup`, where errors are readable."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Check the settings before anything is planned; called by Hydra."""
        from harness.config import config as settings
        from harness.measure import hardware
        from harness.sweep.cluster import slurm

        self._spec = settings.checked(slurm.SlurmSpec, config.hydra.launcher, "hydra.launcher")
        slurm.check(self._spec)
        os.environ[hardware.RUNS_ON] = "cuda" if self._spec.gpus else "cpu"
        given = config.hydra.overrides.hydra
        self._words = [word for word in given if word.startswith(("hydra.launcher.", "hydra.searchpath="))]

    def launch_planned(self, pending: Any, name: str) -> Any:
        """Submit the runs."""
        from harness.sweep.cluster import slurm

        return slurm.launch(pending, name, self._spec, self._words)

    def launch(self, job_overrides: Any, initial_job_idx: int) -> Any:
        """Refuse overrides that no sweeper has checked."""
        raise ValueError("hydra/launcher=slurm makes runs that hydra/sweeper=cells has checked: leave out the sweeper")
