"""A model that is sharded over the ranks that train it, so that no device holds it whole: torch's `fully_shard`.

A rank keeps its shard of every weight, gradient and moment; a layer is gathered where it is computed, and freed again.
Before that every rank opens the whole base on its host. The ranks of a machine share the pages of its files as long as
the base is held in the dtype of the files; a copy in another dtype is each rank's own.
"""

from __future__ import annotations

import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor, Shard, empty
from torch.utils._pytree import tree_map, tree_map_only

from harness.records import disk
from harness.train import checkpoint, distributed, tensors


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


_CHUNK_BYTES = 2**24
_TABLE_CLASSES = {("torch", "Size"), ("torch.serialization", "_get_layout"), ("pathlib", "PosixPath")}
_TABLE_PACKAGE = "torch.distributed.checkpoint."


def write(file: Path, value: Any, facts: dict[str, Any]) -> None:
    """Write a value, of which each rank holds its shards; called by all ranks.

    Raises:
        OSError: a rank could not write; every rank raises it.
    """
    shards: dict[str, DTensor] = {}
    plain = tree_map_only(DTensor, lambda tensor: _set_apart(tensor, shards), value)
    folder = checkpoint.shards(file)
    if distributed.rank() == 0:
        shutil.rmtree(folder, ignore_errors=True)  # of a writing that was cut off
    distributed.barrier()
    try:
        dcp.save(shards, checkpoint_id=folder, process_group=distributed.control_group())
    except CheckpointException as error:
        if distributed.rank() == 0:
            shutil.rmtree(folder, ignore_errors=True)
        for failed, _ in error.failures.values():
            if isinstance(failed, OSError):
                raise failed from None
        raise RuntimeError(str(error)) from error
    sums = {path.name: _checksum(path) for path in _own_files(folder)}
    gathered = distributed.all_gather(sums)
    if distributed.rank() == 0:
        tensors.write(file, plain, {**facts, "shards": gathered})


def check(file: Path, facts: dict[str, Any]) -> None:
    """Compare the files that this rank will read most of with what was written.

    Raises:
        FileNotFoundError: one is missing.
        ValueError: one is damaged.
    """
    for name, checksum in facts["shards"][distributed.rank()].items():
        path = checkpoint.shards(file) / name
        if _checksum(path) != checksum:
            raise ValueError(f"{path}: damaged, its checksum is not the one that was written")


def read(file: Path, plain: Any, model: Any) -> Any:
    """Return a part of the file's value with the sharded tensors put back, for the ranks that have sharded `model`."""
    mesh = next((p.device_mesh for p in model.parameters() if isinstance(p, DTensor)), None)
    if mesh is None:
        return plain
    shards: dict[str, DTensor] = {}

    def put_back(entry: Any) -> Any:
        if not _is_set_apart(entry):
            return entry
        dtype = getattr(torch, entry["dtype"])
        shards[entry["shard"]] = empty(*entry["shape"], dtype=dtype, device_mesh=mesh, placements=(Shard(0),))
        return shards[entry["shard"]]

    value = tree_map(put_back, plain, is_leaf=_is_set_apart)
    dcp.load(shards, storage_reader=_Reader(checkpoint.shards(file)), process_group=distributed.control_group())
    return value


class _Reader(dcp.FileSystemReader):  # type: ignore[misc]
    """Reads the folder's table without executing what it may hold."""

    def read_metadata(self, *arguments: Any, **options: Any) -> Any:
        """Return the table."""
        with (Path(self.path) / ".metadata").open("rb") as stream:
            table = _TableUnpickler(stream).load()
        table.storage_meta = table.storage_meta or dcp.metadata.StorageMeta()
        table.storage_meta.load_id = self.load_id
        return table


class _TableUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_data = module.startswith(_TABLE_PACKAGE) and isinstance(super().find_class(module, name), type)
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_data or is_dtype or (module, name) in _TABLE_CLASSES:
            return super().find_class(module, name)
        raise ValueError(f"damaged: a table of shards has no room for {module}.{name}")


def _set_apart(tensor: DTensor, shards: dict[str, DTensor]) -> dict[str, Any]:
    assert tensor.placements == (Shard(0),), "fully_shard divides by rows"
    key = str(len(shards))
    shards[key] = tensor.detach()
    return {"shard": key, "shape": tuple(tensor.shape), "dtype": str(tensor.dtype).removeprefix("torch.")}


def _is_set_apart(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"shard", "shape", "dtype"}


def _own_files(folder: Path) -> list[Path]:
    table = [folder / ".metadata"] if distributed.rank() == 0 else []
    return [*table, *sorted(folder.glob(f"__{distributed.rank()}_*"))]


def _checksum(path: Path) -> str:
    checksum = 0
    with disk.opened(path) as stream:
        while chunk := stream.read(_CHUNK_BYTES):
            checksum = zlib.crc32(chunk, checksum)
    return f"{checksum:08x}"
