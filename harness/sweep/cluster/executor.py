"""submitit's executor for SLURM, with jobs that start through `node` and pickles for their owner alone."""

from __future__ import annotations

import shlex
from typing import Any

import submitit

from harness.sweep.cluster import node


class Executor(submitit.SlurmExecutor):  # type: ignore[misc]
    """Executor whose jobs check the pickle that they are handed before they read it."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        node.keep_private()

    @property
    def _submitit_command_str(self) -> str:
        return f"{self.python} -u -m {node.__name__} {shlex.quote(str(self.folder))}"
