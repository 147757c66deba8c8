"""Where Hydra finds the launcher that submits runs to a SLURM cluster: `harness.sweep.slurm`."""

from __future__ import annotations

import os
from typing import Any

from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class SlurmLauncher(Launcher):  # type: ignore[misc]
    """Submits each run as a job of an array."""

    def __init__(self, **settings: Any) -> None:
        """Hydra hands the settings over again in `setup`, where they can be refused in a readable way."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's part: what is wrong with the settings is said before anything is planned."""
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
        """Refuse words in place of what has been checked."""
        raise ValueError("hydra/launcher=slurm makes runs that hydra/sweeper=cells has checked: leave out the sweeper")
