"""What the driver says of the GPU (NVML, through nvidia-ml-py): energy, memory in use, company, clocks, heat.

Whatever the driver, the card or the package does not tell is None.
"""

from __future__ import annotations

import contextlib
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


class Gpu:
    """The GPU that torch computes on, asked through NVML.

    To be made before the process has a CUDA context: what is in use then is others' (`own_bytes` is above it).
    """

    def __init__(self) -> None:
        self._nvml = _initialised()
        self._handle: Any = None
        self._before: dict[str, int] = {}  # bytes in use by UUID: which of them is torch's is not known yet
        for handle in self._all():
            uuid, used = self._ask("nvmlDeviceGetUUID", handle), self._used(handle)
            if uuid is not None and used is not None:
                self._before[_text(uuid)] = used
        self._baseline: int | None = None

    def find(self) -> None:
        """Find out which GPU is torch's, once CUDA is initialised."""
        if self._nvml is None or self._handle is not None:
            return
        uuid = _uuid_of_torchs()
        if uuid is not None:
            self._handle = self._ask("nvmlDeviceGetHandleByUUID", uuid)
            self._baseline = self._before.get(uuid)

    def energy_joules(self) -> float | None:
        """What the whole GPU has used since the driver was loaded."""
        millijoules = self._ask("nvmlDeviceGetTotalEnergyConsumption")
        return None if millijoules is None else millijoules / 1000

    def own_bytes(self) -> int | None:
        """Memory in use on the whole GPU, above what was in use when this object was made."""
        used = self._used(self._handle)
        return None if used is None or self._baseline is None else used - self._baseline

    def other_processes(self) -> int | None:
        """Processes that compute on the GPU beside this one, which has a context there.

        None where the driver lists nobody, as in some containers; process ids may be another namespace's.
        """
        found = self._ask("nvmlDeviceGetComputeRunningProcesses")
        return len({one.pid for one in found}) - 1 if found else None

    def clock_share(self) -> float | None:
        """The clock of the multiprocessors over the highest that they have."""
        now, highest = (self._ask(f"nvmlDeviceGet{kind}ClockInfo", self._handle, _CLOCK_SM) for kind in ("", "Max"))
        return now / highest if now is not None and highest else None

    def temperature_celsius(self) -> int | None:
        """Of the chip."""
        found = self._ask("nvmlDeviceGetTemperature", self._handle, _TEMPERATURE_GPU)
        return None if found is None else int(found)

    def throttle_reasons(self) -> tuple[str, ...] | None:
        """Why the clock is below its highest at this moment; () if nothing holds it down."""
        names = ("nvmlDeviceGetCurrentClocksEventReasons", "nvmlDeviceGetCurrentClocksThrottleReasons")  # new, old
        known = [bits for bits in map(self._ask, names) if bits is not None]
        return tuple(reason for bit, reason in THROTTLE_REASONS.items() if known[0] & bit) if known else None

    def _used(self, handle: Any) -> int | None:
        memory = self._ask("nvmlDeviceGetMemoryInfo", handle)
        return None if memory is None else int(memory.used)

    def _all(self) -> list[Any]:
        count = self._nvml.nvmlDeviceGetCount() if self._nvml else 0
        return [handle for i in range(count) if (handle := self._ask("nvmlDeviceGetHandleByIndex", i)) is not None]

    def _ask(self, function: str, *arguments: Any) -> Any:
        """The driver's answer, by default about torch's GPU; None if it has none."""
        arguments = arguments or (self._handle,)
        if self._nvml is None or arguments[0] is None or not hasattr(self._nvml, function):
            return None
        with contextlib.suppress(self._nvml.NVMLError):
            return getattr(self._nvml, function)(*arguments)
        return None


def _initialised() -> Any:
    """The module, ready to be asked; None without the package or a driver."""
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
    except pynvml.NVMLError:
        return None
    return pynvml


def _uuid_of_torchs() -> str | None:
    """The UUID of the GPU that torch computes on, as NVML writes it; initialises CUDA."""
    import torch

    properties = torch.cuda.get_device_properties(torch.cuda.current_device())
    uuid = getattr(properties, "uuid", None)
    return None if uuid is None else f"GPU-{uuid}"


def _text(value: Any) -> str:
    """Old versions of the package answer in bytes."""
    return value.decode() if isinstance(value, bytes) else str(value)
