"""Storage of nested values in one safetensors file. No pickle, no copy of a tensor that is on the CPU.

`torch.load` checks no sum of a tensor's bytes, so that a damaged checkpoint would train on. Here tensors of the value
are the file's tensors. The rest is JSON in the header's metadata, with the file's facts and a checksum over everything.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from harness.records import disk, files
from harness.train.checkpoint import header

_NAMES = {
    torch.float64: "F64", torch.float32: "F32", torch.float16: "F16", torch.bfloat16: "BF16", torch.int64: "I64",
    torch.int32: "I32", torch.int16: "I16", torch.int8: "I8", torch.uint8: "U8", torch.bool: "BOOL",
}  # fmt: skip
_DTYPES = {name: dtype for dtype, name in _NAMES.items()}
_NO_SUM = "00000000"


def write(file: Path, value: Any, facts: dict[str, Any]) -> None:
    """Write a value atomically: dicts, lists, tuples, strings, numbers, None and tensors, nested.

    Raises:
        TypeError: the value holds something else.
        OSError: it cannot be written; nothing of it is left.
    """
    tensors: list[torch.Tensor] = []
    head = _head({"value": json.dumps(_plain(value, tensors)), "facts": json.dumps(facts)}, tensors)
    with files.atomic(file) as temporary, temporary.open("wb") as stream:
        stream.write(len(head).to_bytes(8, "little") + head)
        checksum = zlib.crc32(head)
        for tensor in tensors:
            content = _bytes_of(tensor.detach().cpu().contiguous())
            stream.write(content)
            checksum = zlib.crc32(content, checksum)
        stream.seek(8)
        stream.write(_with_sum(head, f"{checksum:08x}"))
        stream.flush()
        os.fsync(stream.fileno())


def read(file: Path) -> tuple[Any, dict[str, Any]]:
    """Return the value that `write` wrote, on the CPU, and the facts of the file.

    Raises:
        ValueError: the file is damaged.
    """
    with disk.opened(file) as stream:
        head, table = header(stream, file)
        try:
            metadata = table.pop("__metadata__")
            expected = metadata["crc32"]
            checksum = zlib.crc32(_with_sum(head, _NO_SUM))
            tensors = []
            for entry in table.values():
                tensor = torch.empty(entry["shape"], dtype=_DTYPES[entry["dtype"]])
                content = _bytes_of(tensor)
                stream.readinto(content)
                checksum = zlib.crc32(content, checksum)
                tensors.append(tensor)
            if f"{checksum:08x}" != expected:
                raise ValueError(f"{file}: damaged, its checksum is not the one that was written")
            return _filled(json.loads(metadata["value"]), tensors), json.loads(metadata["facts"])
        except (LookupError, TypeError, RuntimeError) as error:
            raise ValueError(f"{file}: damaged ({error})") from error


def _head(metadata: dict[str, str], tensors: Sequence[torch.Tensor]) -> bytes:
    table: dict[str, Any] = {"__metadata__": {"crc32": _NO_SUM, **metadata}}
    end = 0
    for index, tensor in enumerate(tensors):
        begin, end = end, end + tensor.numel() * tensor.element_size()
        table[str(index)] = {
            "dtype": _NAMES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [begin, end],
        }
    text = json.dumps(table).encode()
    return text + b" " * (-len(text) % 8)


def _with_sum(head: bytes, checksum: str) -> bytes:
    """Return the header with another checksum of the same length; the checksum is its first entry."""
    before, mark, tail = head.partition(b'"crc32": "')
    return before + mark + checksum.encode() + tail[len(checksum) :]


def _bytes_of(tensor: torch.Tensor) -> memoryview:
    """Return the memory of a contiguous tensor on the CPU."""
    return memoryview(tensor.reshape(-1).view(torch.uint8).numpy())


def _plain(value: Any, tensors: list[torch.Tensor]) -> Any:
    """Return `value` in the form of JSON; its tensors are appended to `tensors`."""
    if isinstance(value, torch.Tensor):
        tensors.append(value)
        layout = {} if value.is_contiguous() else {"stride": list(value.stride())}  # a product's rounding depends on it
        return {"tensor": len(tensors) - 1, **layout}
    if isinstance(value, dict):
        return {"pairs": [[_plain(key, tensors), _plain(item, tensors)] for key, item in value.items()]}
    if isinstance(value, tuple):
        return {"tuple": [_plain(item, tensors) for item in value]}
    if isinstance(value, list):
        return [_plain(item, tensors) for item in value]
    if value is None or isinstance(value, str | int | float):
        return value
    raise TypeError(f"a checkpoint has no room for a {type(value).__name__}")


def _filled(plain: Any, tensors: Sequence[torch.Tensor]) -> Any:
    if isinstance(plain, list):
        return [_filled(item, tensors) for item in plain]
    if not isinstance(plain, dict):
        return plain
    if "tensor" in plain:
        tensor = tensors[plain["tensor"]]
        if "stride" in plain:
            return torch.empty_strided(tensor.shape, plain["stride"], dtype=tensor.dtype).copy_(tensor)
        return tensor
    if "tuple" in plain:
        return tuple(_filled(item, tensors) for item in plain["tuple"])
    return {_filled(key, tensors): _filled(item, tensors) for key, item in plain["pairs"]}
