"""Sharding of a model among the ranks that train it, so that no device holds it whole.

torch's `fully_shard`: a rank keeps its shard of every weight, gradient and moment. A layer is gathered where it is
computed, and freed again. All ranks together gather the weights to save, one tensor at a time, on rank 0's CPU. For a
checkpoint each rank writes its shards as they are.
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
    """Return the model that an adapter is wrapped around; the model itself if there is none."""
    return model.get_base_model() if hasattr(model, "get_base_model") else model


def layers_of(model: Any) -> list[Any]:
    """Return the modules that the architecture wants on one device each, outer ones first; [] if it names none."""
    base = unwrapped(model)
    names = set(base._no_split_modules or ())
    return [module for module in base.modules() if type(module).__name__ in names]


def mark_presharded(model: Any) -> None:
    """Keep transformers' trainer from moving or wrapping the model, which it takes for one sharded as it loaded."""
    unwrapped(model)._is_distributed_loading_by_transformers = True


def shard(model: Any) -> None:
    """Shard every parameter, layer by layer. Parameters on the CPU go to the devices on the way.

    Raises:
        ValueError: the model does not say what its layers are.
    """
    layers = layers_of(model)[::-1]  # inner layers first
    if not layers:
        raise ValueError(
            f"launch.sharding=fsdp: {type(unwrapped(model)).__name__} does not say which of its modules are layers "
            "(_no_split_modules), so that all of it would be put together at once; use launch.sharding=none"
        )
    mesh = init_device_mesh("cuda" if torch.cuda.is_available() else "cpu", (distributed.world_size(),))
    for part in (*layers, model):
        # the root is resharded after a forward pass as well: between two steps there are shards alone
        fully_shard(part, mesh=mesh, reshard_after_forward=True)
        part.set_force_sum_reduction_for_comms(True)  # summed, then divided: gloo has no mean


def full_tensor(tensor: Any) -> Any:
    """Gather a sharded tensor on the device of every rank; return anything else unchanged."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def local_shards(value: Any) -> Any:
    """Replace every sharded tensor in nested values with this rank's shard and the layout of the whole."""
    return tree_map_only(DTensor, _part, value)


def from_shards(value: Any, model: Any) -> Any:
    """Rebuild what `local_shards` was given, for the ranks that `model` is sharded among.

    Anything but its shards is returned unchanged.
    """
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
