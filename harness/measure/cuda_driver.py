"""Program that prints, as JSON, the devices that CUDA's driver reports to this process.

`harness.measure.hardware` runs it by its path. It needs nothing but the standard library, so that it also runs where
this package is not installed.
"""

from __future__ import annotations

import ctypes
import json
import sys
import uuid
from typing import Any

_NAME_BYTES = 256
_MAJOR, _MINOR = 75, 76  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_MAJOR and _MINOR


def devices() -> list[dict[str, Any]]:
    """Return name, UUID, compute capability and bytes of memory of each device; [] without a driver or a device."""
    try:
        cuda = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return []
    count = ctypes.c_int()
    if cuda.cuInit(0) or cuda.cuDeviceGetCount(ctypes.byref(count)):
        return []
    return [_device(cuda, index) for index in range(count.value)]


def _device(cuda: Any, index: int) -> dict[str, Any]:
    handle, major, minor, memory = ctypes.c_int(), ctypes.c_int(), ctypes.c_int(), ctypes.c_size_t()
    name, identity = ctypes.create_string_buffer(_NAME_BYTES), (ctypes.c_ubyte * 16)()
    _check(cuda.cuDeviceGet(ctypes.byref(handle), index))
    _check(cuda.cuDeviceGetName(name, _NAME_BYTES, handle))
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(major), _MAJOR, handle))
    _check(cuda.cuDeviceGetAttribute(ctypes.byref(minor), _MINOR, handle))
    _check(cuda.cuDeviceTotalMem_v2(ctypes.byref(memory), handle))
    _check(cuda.cuDeviceGetUuid(identity, handle))
    return {
        "name": name.value.decode(),
        "uuid": f"GPU-{uuid.UUID(bytes=bytes(identity))}",
        "major": major.value,
        "minor": minor.value,
        "memory_bytes": memory.value,
    }


def _check(code: int) -> None:
    if code:
        raise OSError(f"CUDA's driver refused with error {code}")


if __name__ == "__main__":
    json.dump(devices(), sys.stdout)
