"""A model whose weights are divided among the processes that train it together, so that no device holds it whole.

torch's `fully_shard`: a process keeps its part of every weight, gradient and moment; a layer is put together where it
is computed, and taken apart again. What is saved is put together one tensor at a time, by all of the processes, and
kept on the first one's host; for a checkpoint each process writes its parts as they are.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard
from torch.utils._pytree import tree_map, tree_map_only

from harness.train import distributed


def unwrapped(model: Any) -> Any:
    """The model that an adapter is wrapped around; the model itself where there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layers_of(model: Any) -> list[Any]:
    """The modules that the architecture wants on one device each, the outer ones first; none where it names none."""
    base = unwrapped(model)
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def mark_presharded(model: Any) -> None:
    """Have transformers' trainer neither move nor wrap the model: it takes it for one that was divided as it loaded."""
    unwrapped(model)._is_distributed_loading_by_transformers = True


def shard(model: Any) -> None:
    """Divide every parameter, layer by layer; what lies on the host goes to the devices on the way.

    Raises:
        ValueError: the model does not say what its layers are.
    """
    layers = layers_of(model)[::-1]  # those within others first
    if not layers:
        raise ValueError(
            f"launch.sharding=fsdp: {type(unwrapped(model)).__name__} does not say which of its modules are layers "
            "(_no_split_modules), so that all of it would be put together at once; use launch.sharding=none"
        )
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (distributed.world_size(),))
    for part in (*layers, model):
        # the model itself is taken apart after a forward pass as well: between two steps there are parts alone
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_force_sum_reduction_for_comms(True)  # and divided then: gloo knows no mean


def full_tensor(tensor: Any) -> Any:
    """All of a divided tensor, on the device, for every process; anything else is handed back."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shards(value: Any) -> Any:
    """Nested values with this process's part, and the layout of the whole, in the place of every divided tensor."""
    return tree_map_only(DTensor, _part, value)


def from_shards(value: Any, model: Any) -> Any:
    """What `parts` was given, for the processes that `model` is divided among; anything else is handed back."""
    return tree_map(partial(_divided, model), value, is_leaf=_is_part)


def gather_on_rank_0(model: Any) -> None:
    """Gather the trained weights on rank 0's CPU, to be saved. The model cannot be run afterwards.

    Frozen weights, which are read again, keep their shapes alone.
    """
    gathered: dict[DTensor, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if parameter not in gathered:
                    gathered[parameter] = _gathered(parameter)
                module.register_parameter(name, gathered[parameter])
    del unwrapped(model)._is_distributed_loading_by_transformers


def _gathered(parameter: Any) -> torch.nn.Parameter:
    if not parameter.requires_grad:
        return torch.nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), False)
    whole = parameter.detach().full_tensor()
    return torch.nn.Parameter(whole.cpu() if distributed.rank() == 0 else torch.empty(0, dtype=whole.dtype))


def _part(tensor: DTensor) -> dict[str, Any]:
    assert tensor.placements == (Shard(0),), "fully_shard divides by rows"
    return {"part": tensor.to_local(), "shape": tuple(tensor.shape), "stride": tensor.stride()}


def _is_part(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"part", "shape", "stride"}


def _divided(model: Any, value: Any) -> Any:
    if not _is_part(value):
        return value
    mesh = next(parameter.device_mesh for parameter in model.parameters() if isinstance(parameter, DTensor))
    layout = {"shape": torch.Size(value["shape"]), "stride": value["stride"]}
    return DTensor.from_local(value["part"], mesh, (Shard(0),), run_check=False, **layout)
