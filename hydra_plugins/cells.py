"""Entry point through which Hydra finds this project's sweeper, which is implemented in `harness.sweep`."""

from __future__ import annotations

from typing import Any

from hydra.core.config_store import ConfigStore
from hydra.core.plugins import Plugins
from hydra.plugins.sweeper import Sweeper
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


class CellSweeper(Sweeper):  # type: ignore[misc]
    """Expands the overrides into cells, checks all of them, and passes them to the launcher."""

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Store what composing and launching need; called by Hydra."""
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
        code = sweep.execute(self._config, arguments, self._compose, self._launch, runs_come_alone=alone)
        raise SystemExit(self._launcher.exit_code(code) if hasattr(self._launcher, "exit_code") else code)

    def _launch(self, pending: list[Any], name: str) -> Any:
        """Launch cells. A sweep with stages launches twice, so jobs are numbered on and no two share a folder."""
        if hasattr(self._launcher, "launch_planned"):  # of this project: it does not compose checked cells again
            return self._launcher.launch_planned(pending, name)
        first, self._launched = self._launched, self._launched + len(pending)
        return self._launcher.launch([list(planned.cell) for planned in pending], initial_job_idx=first)


_SETTINGS = {"_target_": "hydra_plugins.cells.CellSweeper"}
ConfigStore.instance().store(group="hydra/sweeper", name="cells", node=_SETTINGS, provider="harness")
