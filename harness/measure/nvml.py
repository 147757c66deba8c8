"""State of the GPU from its driver (NVML, through nvidia-ml-py): energy, memory, other processes, clocks, temperature.

A value that the driver, the card or the package does not report is None.
"""

from __future__ import annotations

import contextlib
import os
from typing import Any

# bits of nvmlClocksEventReasons (nvml.h), named as there; an idle clock is no reason to doubt anything
THROTTLE_REASONS = {
    0x2: "applications_clocks_setting",
    0x4: "sw_power_cap",
    0x8: "hw_slowdown",
    0x10: "sync_boost",
    0x20: "sw_thermal_slowdown",
    0x40: "hw_thermal_slowdown",
    0x80: "hw_power_brake_slowdown",
    0x100: "display_clock_setting",
}
_CLOCK_SM, _TEMPERATURE_GPU = 1, 0  # nvmlClockType_t, nvmlTemperatureSensors_t

# nvmlPerfPolicyType_t: what holds the clock down, each with a counter that runs while it does
LIMITS = {0: "power", 1: "thermal", 2: "sync_boost", 3: "board_limit", 5: "reliability"}

_baseline: tuple[int, dict[str, int]] | None = None  # process id, and the bytes that it noted before its context


def note_baseline() -> None:
    """Note the memory in use on every GPU; call it in a process that gets a CUDA context before its `Gpus` exist.

    Selecting a device makes a context there from CUDA 12 on (`cudaSetDevice`).
    """
    global _baseline
    _baseline = os.getpid(), Gpus().bytes_before


class Gpus:
    """The GPUs that torch sees, queried through NVML. `index` is torch's; unknown values are None.

    Create it before the process has a CUDA context, or call `note_baseline` before that: memory in use by then is
    others', and `own_bytes` subtracts it.
    """

    def __init__(self) -> None:
        self._nvml = initialized()
        self._handles: list[Any] | None = None  # by torch's index
        # by UUID: which of the GPUs are torch's is not known yet
        self.bytes_before = _baseline[1] if _baseline and _baseline[0] == os.getpid() else self._bytes_in_use()
        self._baselines: list[int | None] = []

    def find(self) -> None:
        """Find the GPUs that torch uses, once CUDA is initialized."""
        if self._nvml is None or self._handles is not None:
            return
        uuids = _uuids_of_torchs()
        self._handles = [None if uuid is None else self._ask("nvmlDeviceGetHandleByUUID", uuid) for uuid in uuids]
        self._baselines = [None if uuid is None else self.bytes_before.get(uuid) for uuid in uuids]

    def __len__(self) -> int:
        return len(self._handles or ())

    def energy_joules(self, index: int) -> float | None:
        """Return the joules that the whole GPU has used since the driver was loaded."""
        millijoules = self._of("nvmlDeviceGetTotalEnergyConsumption", index)
        return None if millijoules is None else millijoules / 1000

    def limited_seconds(self, index: int) -> dict[str, float] | None:
        """Return the seconds that each limit has held the clock down since the driver was loaded."""
        times = {name: self._of("nvmlDeviceGetViolationStatus", index, policy) for policy, name in LIMITS.items()}
        seconds = {name: time.violationTime / 1e9 for name, time in times.items() if time is not None}
        return seconds or None

    def own_bytes(self, index: int) -> int | None:
        """Return the memory in use on the whole GPU, above what was in use when this object was made."""
        used, baseline = self._used(self._handle(index)), self._baselines[index] if index < len(self) else None
        return None if used is None or baseline is None else used - baseline

    def held_bytes(self, index: int) -> int | None:
        """Return the memory that this process holds on the GPU, its context included.

        None where the driver does not list this process, as in most containers, or not what it holds.
        """
        processes = self._of("nvmlDeviceGetComputeRunningProcesses", index) or ()
        return next((process.usedGpuMemory for process in processes if process.pid == os.getpid()), None)

    def other_processes(self, index: int) -> int | None:
        """Return the number of processes that compute on the GPU beside this one, which has a context there.

        None where the driver lists no process, as in some containers; process ids may be of another namespace.
        """
        processes = self._of("nvmlDeviceGetComputeRunningProcesses", index)
        return len({process.pid for process in processes}) - 1 if processes else None

    def clock_share(self, index: int) -> float | None:
        """Return the clock of the multiprocessors over the highest that they have."""
        now, highest = (self._of(f"nvmlDeviceGet{kind}ClockInfo", index, _CLOCK_SM) for kind in ("", "Max"))
        return now / highest if now is not None and highest else None

    def temperature_celsius(self, index: int) -> int | None:
        """Return the temperature of the chip."""
        celsius = self._of("nvmlDeviceGetTemperature", index, _TEMPERATURE_GPU)
        return None if celsius is None else int(celsius)

    def throttle_reasons(self, index: int) -> tuple[str, ...] | None:
        """Return why the clock is below its highest at this moment; () if nothing holds it down."""
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")  # new, old
        masks = [bits for name in names if (bits := self._of(name, index)) is not None]
        return tuple(reason for bit, reason in THROTTLE_REASONS.items() if masks[0] & bit) if masks else None

    def _handle(self, index: int) -> Any:
        return self._handles[index] if self._handles is not None and index < len(self._handles) else None

    def _bytes_in_use(self) -> dict[str, int]:
        queried = [(self._ask("nvmlDeviceGetUUID", handle), self._used(handle)) for handle in self._all()]
        return {as_text(uuid): used for uuid, used in queried if uuid is not None and used is not None}

    def _used(self, handle: Any) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return None if memory is None else int(memory.used)

    def _all(self) -> list[Any]:
        count = self._nvml.nvmlDeviceGetCount() if self._nvml else 0
        return [handle for i in range(count) if (handle := self._ask("nvmlDeviceGetHandleByIndex", i)) is not None]

    def _of(self, function: str, index: int, *arguments: Any) -> Any:
        return self._ask(function, self._handle(index), *arguments)

    def _ask(self, function: str, *arguments: Any) -> Any:
        """Return the driver's answer; None if it has none."""
        if self._nvml is None or arguments[0] is None or not hasattr(self._nvml, function):
            return None
        with contextlib.suppress(self._nvml.NVMLError):
            return getattr(self._nvml, function)(*arguments)
        return None


def initialized() -> Any:
    """Return the NVML module, initialized; None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _uuids_of_torchs() -> list[str | None]:
    """Return the UUID of each GPU that torch sees, as NVML writes it; initializes CUDA."""
    import torch

    properties = map(torch.cuda.get_device_properties, range(torch.cuda.device_count()))
    uuids = [getattr(device, "uuid", None) for device in properties]
    return [None if uuid is None else f"GPU-{uuid}" for uuid in uuids]


def as_text(value: Any) -> str:
    """Return a string; old versions of the package answer in bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
