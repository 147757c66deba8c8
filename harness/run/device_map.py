"""Devices that a run's weights are loaded to."""

from __future__ import annotations

from typing import Any

import torch

from harness.config.experiment import Experiment
from harness.measure.machine_load import used_gpus
from harness.measure.memory import available_bytes, release_freed_memory
from harness.records.settings import LaunchSpec
from harness.train import distributed


def options(experiment: Experiment) -> dict[str, Any]:
    """Return the options of `from_pretrained` that place a model: on this process's GPU, or on all of them.

    {} loads on the CPU: without a GPU, or for a model that ranks will shard.
    """
    is_divided = experiment.launch.sharding == "fsdp"
    if not torch.cuda.is_available() or (is_divided and distributed.world_size() > 1):
        return {}
    is_spread = is_divided or experiment.model.device_map == "auto"
    return {"device_map": "auto" if is_spread else {"": distributed.local_rank()}}


def shared_by(launch: LaunchSpec) -> dict[str, Any]:
    """Return the number of processes and, if there are several, the sharding and the number of nodes."""
    several = {"sharding": launch.sharding} if launch.num_processes > 1 else {}
    nodes = {"num_nodes": launch.num_nodes} if launch.num_nodes > 1 else {}
    return {"num_processes": launch.num_processes, **several, **nodes}


def free_bytes() -> int:
    """Return the free bytes on this process's device, with torch's cache; 0 if the system does not report them.

    For a model on several GPUs they are those of the fullest one. A process that may take a part of a GPU alone
    (`torch.cuda.set_per_process_memory_fraction`) has what is left of that part.
    """
    if not torch.cuda.is_available():
        return available_bytes() or 0
    return min(map(_free_bytes_on, used_gpus()))


def _free_bytes_on(gpu: int) -> int:
    free, total = torch.cuda.mem_get_info(gpu)
    reserved = torch.cuda.memory_reserved(gpu)
    allowed = total * torch.cuda.get_per_process_memory_fraction(gpu) - reserved
    return int(max(0, min(free, allowed)) + reserved - torch.cuda.memory_allocated(gpu))


def clear() -> None:
    """Release the memory that training cached: automatic placement would count it as taken by another program."""
    release_freed_memory()
    torch.cuda.empty_cache()
