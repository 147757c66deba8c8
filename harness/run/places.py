"""Which devices a run's weights are read to."""

from __future__ import annotations

from typing import Any

import torch

from harness.config.experiment import Experiment
from harness.measure.memory import available_bytes, release_freed_memory
from harness.records.specs import LaunchSpec
from harness.train import distributed


def options(experiment: Experiment) -> dict[str, Any]:
    """For `from_pretrained`: this process's GPU, all of them, or the host, where a model that is divided is read."""
    is_divided = experiment.launch.sharding == "fsdp"
    if not torch.cuda.is_available() or (is_divided and distributed.world_size() > 1):
        return {}
    is_spread = is_divided or experiment.model.device_map == "auto"
    return {"device_map": "auto" if is_spread else {"": distributed.local_rank()}}


def shared_by(launch: LaunchSpec) -> dict[str, Any]:
    """How many processes train together and, where several do, on how many nodes and how they share the model."""
    several = {"sharding": launch.sharding} if launch.num_processes > 1 else {}
    nodes = {"num_nodes": launch.num_nodes} if launch.num_nodes > 1 else {}
    return {"num_processes": launch.num_processes, **several, **nodes}


def free_bytes() -> int:
    """Return the bytes that a model on this process's device may still take: 0 where the system does not say."""
    if not torch.cuda.is_available():
        return available_bytes() or 0
    free, _ = torch.cuda.mem_get_info()
    return int(free + torch.cuda.memory_reserved() - torch.cuda.memory_allocated())


def clear() -> None:
    """Give back what training has left: where a model is spread, it would count as another program's."""
    release_freed_memory()
    torch.cuda.empty_cache()
