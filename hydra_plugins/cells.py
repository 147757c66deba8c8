"""Where Hydra finds this project's sweeper. What it does is in `harness.sweep`."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CellSweeper(Sweeper):  # type: ignore[misc]
    """Expands what was asked for into cells, checks all of them, and hands them to the launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Hydra's part: keep what is needed to compose and to launch."""
        self._config = config
        self._launched = 0
        self._compose = lambda overrides: hydra_context.config_loader.load_sweep_config(config, list(overrides))
        self._launcher = Plugins.instance().instantiate_launcher(
            hydra_context=hydra_context, task_function=task_function, config=config
        )

    def sweep(self, arguments: list[str]) -> Any:
        """Run the sweep; exits with its code."""
        from harness.sweep import sweep

        alone = self._config.hydra.runtime.choices["hydra/launcher"] == "basic"
        raise SystemExit(sweep.execute(self._config, arguments, self._compose, self._launch, runs_come_alone=alone))

    def _launch(self, pending: list[Any], name: str) -> Any:
        """A sweep with stages launches twice: the jobs are counted on, so that no two share a folder."""
        if hasattr(self._launcher, "launch_planned"):  # one of ours: it need not compose again what was checked
            return self._launcher.launch_planned(pending, name)
        first, self._launched = self._launched, self._launched + len(pending)
        return self._launcher.launch([list(planned.cell) for planned in pending], initial_job_idx=first)


_SETTINGS = {"_target_": "hydra_plugins.cells.CellSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=_SETTINGS, provider="harness")
