"""NVML's Python package, as far as this project calls it, for the cards that the file FAKE_CARDS describes."""

import types

import sitecustomize

nvmlMemory_v2 = 0x02000028  # noqa: N816


class NVMLError(Exception):
    """What the library raises."""


def nvmlInit():  # noqa: N802
    if not sitecustomize.machine()["nvml"]:
        raise NVMLError("NVML Shared Library Not Found")


def nvmlShutdown():  # noqa: N802
    pass


def nvmlSystemGetDriverVersion():  # noqa: N802
    return sitecustomize.machine()["driver"]


def nvmlDeviceGetCount():  # noqa: N802
    return len(sitecustomize.machine()["cards"])


def nvmlDeviceGetHandleByIndex(index):  # noqa: N802
    return sitecustomize.machine()["cards"][index]


def nvmlDeviceGetHandleByUUID(uuid):  # noqa: N802
    cards = sitecustomize.machine()["cards"]
    slices = [slice_ for card in cards for slice_ in card.get("slices", ())]
    for one in [*cards, *slices]:
        if one["uuid"] == uuid:
            return one
    raise NVMLError("Not Found")


def nvmlDeviceGetUUID(handle):  # noqa: N802
    return handle["uuid"]


def nvmlDeviceGetName(handle):  # noqa: N802
    return handle["name"]


def nvmlDeviceGetMigMode(handle):  # noqa: N802
    if "slices" not in handle:
        raise NVMLError("Not Supported")
    return [1, 1]


def nvmlDeviceGetDeviceHandleFromMigDeviceHandle(handle):  # noqa: N802
    return next(card for card in sitecustomize.machine()["cards"] if handle in card.get("slices", ()))


def nvmlDeviceGetCudaComputeCapability(handle):  # noqa: N802
    if handle["uuid"].startswith("MIG-"):
        raise NVMLError("Invalid Argument")
    return handle["capability"]


def nvmlDeviceGetMemoryInfo(handle, version=None):  # noqa: N802
    total, used = handle["memory_bytes"], handle.get("used_bytes", 0)
    return types.SimpleNamespace(total=total, used=used, free=total - used)


def nvmlDeviceGetGraphicsRunningProcesses(handle):  # noqa: N802
    return [types.SimpleNamespace(pid=1, usedGpuMemory=taken) for taken in handle.get("screens", ())]


def nvmlDeviceGetComputeRunningProcesses(handle):  # noqa: N802
    return []
