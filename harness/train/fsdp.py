"""A model that is sharded over the ranks that train it, so that no device holds it whole: torch's `fully_shard`.

A rank keeps its shard of every weight, gradient and moment; a layer is gathered where it is computed, and freed again.
Before that every rank opens the whole base on its host. The ranks of a machine share the pages of its files as long as
the base is held in the dtype of the files; a copy in another dtype is each rank's own.
"""

from __future__ import annotations

from typing import Any

import torch
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor

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


def gather_on_rank_0(model: Any) -> None:
    """Gather what a method saves on rank 0's CPU: trained weights and adapters. The model cannot be run afterwards.

    Frozen weights of the base, which are read again, keep their shapes alone.
    """
    adapters = _adapter_parameters(model)
    gathered: dict[DTensor, torch.nn.Parameter] = {}  # tied weights stay tied
    for module in model.modules():
        for name, parameter in list(module.named_parameters(recurse=False)):
            if isinstance(parameter, DTensor):
                if parameter not in gathered:
                    gathered[parameter] = _gathered(parameter, parameter.requires_grad or parameter in adapters)
                module.register_parameter(name, gathered[parameter])
    del unwrapped(model)._is_distributed_loading_by_transformers


def _adapter_parameters(model: Any) -> set[Any]:
    """Return the parameters of PEFT's adapters, frozen ones among them: LoRA-FA trains one of two factors."""
    layers = [(module, name) for module in model.modules() for name in getattr(module, "adapter_layer_names", ())]
    parts = [part for module, name in layers if isinstance(part := getattr(module, name, None), torch.nn.Module)]
    return {parameter for part in parts for parameter in part.parameters()}


def _gathered(parameter: Any, saved: bool) -> torch.nn.Parameter:
    if not saved:
        return torch.nn.Parameter(torch.empty(parameter.shape, dtype=parameter.dtype, device="meta"), False)
    whole = parameter.detach().full_tensor()
    return torch.nn.Parameter(whole.cpu() if distributed.rank() == 0 else torch.empty(0, dtype=whole.dtype))
