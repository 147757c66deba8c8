"""Nested values with sharded tensors <-> a folder of torch.distributed.checkpoint, and a file for everything else.

Every rank writes its own shards, all at once. The file, written last and by rank 0, has the checksums of the folder's
files: there is a checkpoint when the file is there. Tensors are read with `weights_only`, and the folder's table, which
is a pickle, with nothing but its own classes: nothing that is read is executed.
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
from torch.distributed.tensor import DTensor, Shard, empty
from torch.utils._pytree import tree_map, tree_map_only

from harness.records import disk
from harness.train import checkpoint, distributed, tensors

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
