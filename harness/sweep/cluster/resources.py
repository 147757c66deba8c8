"""Settings of `hydra/launcher=slurm`: the resources of each run's job."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import Field

from harness.records.base import Strict

_OF_SEVERAL = ("nodes", "N", "ntasks", "n", "ntasks-per-node")  # options of sbatch that spread a job
Count = Annotated[int, Field(ge=0)]
Positive = Annotated[int, Field(ge=1)]


@dataclass(frozen=True, kw_only=True)
class SlurmSpec(Strict):
    """Settings `hydra.launcher` of `hydra/launcher=slurm`: the resources of each run. null: the cluster's default."""

    partition: str | None
    account: str | None
    qos: str | None
    constraint: str | None
    gpus: Count
    cpus: Positive
    memory_gib: Annotated[float, Field(gt=0)] | None
    time_minutes: Positive
    array_parallelism: Positive  # jobs of this sweep that run at once
    cells_per_job: Positive = 1  # runs that a job makes one after another, within its time
    setup: tuple[str, ...]  # lines of the job's shell before the run
    signal_seconds: Positive  # a job is signaled this long before its time limit, to save its state
    max_requeues: Count
    offline: bool  # the nodes use only files that the submitting machine has downloaded
    wait: bool  # wait for the runs and write the report; else leave them to the cluster
    options: Mapping[str, str | int | bool] = field(default_factory=dict)  # further options of sbatch, passed unchanged

    def __post_init__(self) -> None:
        plain = {"partition": self.partition, "account": self.account, "qos": self.qos, "constraint": self.constraint}
        for name, value in {
            **plain,
            **{f"options.{key}": f"{key}={option}" for key, option in self.options.items()},
        }.items():
            if value is not None and not value.isprintable():  # a line end would begin a line of the job's shell
                raise ValueError(f"hydra.launcher.{name}={value!r}: no line end or control character may be in it")
        if self.signal_seconds >= 60 * self.time_minutes:
            raise ValueError(
                f"hydra.launcher.signal_seconds={self.signal_seconds}: must be less than "
                f"hydra.launcher.time_minutes={self.time_minutes}, or each job would be told to end as it starts"
            )
        for name, value in {**self.options, **vars(self)}.items():
            if isinstance(value, str) and not value.isprintable():
                raise ValueError(
                    f"hydra.launcher: {name}={value!r} has a line end or another control character, which would end "
                    "its line of the job script; take it out"
                )
        several = [name for name in _OF_SEVERAL if str(self.options.get(name, 1)) != "1"]
        if several:
            raise ValueError(
                f"hydra.launcher.options.{several[0]}={self.options[several[0]]}: on how many nodes a run trains, with "
                "one task on each, is said by launch.num_nodes; leave this out"
            )

    def sbatch(self, nodes: int = 1) -> dict[str, Any]:
        """Return the options of sbatch for a job on `nodes` nodes."""
        options = {
            "partition": self.partition,
            "account": self.account,
            "qos": self.qos,
            "constraint": self.constraint,
            "gres": f"gpu:{self.gpus}" if self.gpus else None,
            "cpus-per-task": self.cpus,
            "mem": f"{round(self.memory_gib * 1024)}M" if self.memory_gib else None,
            "time": self.time_minutes,
            "requeue": True,
            **({"nodes": nodes, "ntasks-per-node": 1} if nodes > 1 else {}),
            **self.options,
        }
        return {name: value for name, value in options.items() if value is not None}
