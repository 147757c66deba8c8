"""What goes on beside a phase: real processes on the processor, a driver that is played, a card where there is one."""

import contextlib
import dataclasses
import os
import signal
import subprocess
import sys
import types

import pytest

from harness.measure import machine_load, nvml
from harness.measure.machine_load import Surroundings
from harness.measure.memory import Phases
from harness.records.record import Conditions, Phase
from harness.report.analysis import axes

GIB = 2**30


class RefusedError(Exception):
    """As pynvml.NVMLError."""


class Driver:
    """NVML as nvidia-ml-py offers it, with two cards of which the second is torch's."""

    NVMLError = RefusedError

    def __init__(self):
        self.used = {"GPU-a": 9 * GIB, "GPU-b": 2 * GIB}
        self.millijoules = {"GPU-a": 0, "GPU-b": 5_000_000}
        self.holding = [0]  # torch's index of GPU-b, whose tensors are ours
        self.violations = {"GPU-a": 0, "GPU-b": 7_000_000_000}
        self.pids = [11, 12, 12]
        self.held = {}  # bytes by process, where the driver tells them apart
        self.clock = 1500
        self.reasons = 0x1 | 0x4 | 0x40

    def nvmlDeviceGetCount(self):  # noqa: N802 - the driver's names
        return len(self.used)

    def nvmlDeviceGetHandleByIndex(self, index):  # noqa: N802
        return list(self.used)[index]

    def nvmlDeviceGetHandleByUUID(self, uuid):  # noqa: N802
        if uuid not in self.used:
            raise RefusedError("not found")
        return uuid

    def nvmlDeviceGetUUID(self, handle):  # noqa: N802
        return handle.encode() if handle == "GPU-a" else handle  # old versions answer in bytes

    def nvmlDeviceGetMemoryInfo(self, handle):  # noqa: N802
        return types.SimpleNamespace(used=self.used[handle])

    def nvmlDeviceGetTotalEnergyConsumption(self, handle):  # noqa: N802
        return self.millijoules[handle]

    def nvmlDeviceGetViolationStatus(self, handle, policy):  # noqa: N802
        if policy not in (0, 1):
            raise RefusedError("not supported")
        return types.SimpleNamespace(referenceTime=1, violationTime=self.violations[handle] * policy)

    def nvmlDeviceGetComputeRunningProcesses(self, handle):  # noqa: N802
        return [types.SimpleNamespace(pid=pid, usedGpuMemory=self.held.get(pid)) for pid in self.pids]

    def nvmlDeviceGetClockInfo(self, handle, kind):  # noqa: N802
        assert kind == 1
        return self.clock

    def nvmlDeviceGetMaxClockInfo(self, handle, kind):  # noqa: N802
        return 2000

    def nvmlDeviceGetTemperature(self, handle, sensor):  # noqa: N802
        assert sensor == 0
        return 81

    def nvmlDeviceGetCurrentClocksThrottleReasons(self, handle):  # noqa: N802 - an old driver's package
        return self.reasons


@pytest.fixture
def driver(monkeypatch):
    played = Driver()
    monkeypatch.setattr(nvml, "initialized", lambda: played)
    monkeypatch.setattr(nvml, "_uuids_of_torchs", lambda: ["GPU-b", "GPU-a"])
    monkeypatch.setattr(machine_load, "_allocation_retries", lambda: 3)
    monkeypatch.setattr(machine_load, "used_gpus", lambda: played.holding)
    monkeypatch.setattr(machine_load, "_reserved_bytes", lambda gpus: 3 * GIB * len(gpus))
    return played


def test_a_phase_on_a_gpu_is_told_of_by_its_driver(driver):
    around = Surroundings(cuda=True)
    driver.used["GPU-b"] += GIB
    before = around.look()
    driver.used["GPU-b"] += 4 * GIB
    driver.millijoules["GPU-b"] += 250_000
    driver.millijoules["GPU-a"] += 90_000
    driver.violations["GPU-b"] += 2_500_000_000
    found = around.since(before)
    assert found["energy_joules"] == 250
    assert found["device_bytes"] == 5 * GIB, "above what was in use before the run, its own context included"
    assert found["context_bytes"] is None, "another process is on the card, and may have taken a part of these"
    assert found["allocation_retries"] == 0
    assert found["paged_bytes"] == 0
    assert found["conditions"].limited_seconds == {"power": 0.0, "thermal": 2.5}
    seen = found["conditions"]
    assert (seen.other_device_processes, seen.clock_share, seen.temperature_celsius) == (1, 0.75, 81)
    assert seen.throttle_reasons == ("sw_power_cap", "hw_thermal_slowdown"), "an idle clock is no reason"


@pytest.mark.parametrize(
    ("pids", "held", "expected"),
    [
        ([11], {}, 2),
        ([11, 12], {}, None),
        ([os.getpid()], {os.getpid(): 5}, 2),
        ([os.getpid(), 12], {os.getpid(): 4, 12: 1}, 1),
        ([os.getpid(), 12], {12: 1}, None),
        ([], {}, 2),
    ],
)
def test_a_context_is_told_from_what_other_processes_take_meanwhile(driver, pids, held, expected):
    """In a container the driver's numbers of processes are of another namespace; there a process alone is enough."""
    driver.pids, driver.held = pids, {pid: gib * GIB for pid, gib in held.items()}
    around = Surroundings(cuda=True)
    before = around.look()
    driver.used["GPU-b"] += 5 * GIB
    found = around.since(before)
    assert found["device_bytes"] == 5 * GIB
    assert found["context_bytes"] == (None if expected is None else expected * GIB), "3 GiB are torch's allocator's"


def test_a_context_that_is_there_before_counts_where_the_memory_was_noted_before_it(driver, monkeypatch):
    """Of this process alone: what a parent noted is not what was in use when its fork began."""
    monkeypatch.setattr(nvml, "_baseline", None)
    driver.pids = [11]
    nvml.note_baseline()
    driver.used["GPU-b"] += GIB  # the context that selecting a device makes
    around = Surroundings(cuda=True)
    before = around.look()
    driver.used["GPU-b"] += 4 * GIB
    assert around.since(before)["context_bytes"] == 2 * GIB
    monkeypatch.setattr(nvml, "_baseline", (os.getppid(), {"GPU-b": 0}))
    around = Surroundings(cuda=True)
    assert around.since(around.look())["device_bytes"] == 0


def test_energy_and_memory_are_of_every_card_that_holds_tensors(driver):
    around = Surroundings(cuda=True)
    before = around.look()
    driver.holding, driver.pids = [0, 1], [11]
    for name, gib in (("GPU-a", 4), ("GPU-b", 5)):
        driver.used[name] += gib * GIB
        driver.millijoules[name] += 100_000
    driver.violations["GPU-a"] += 3_000_000_000
    found = around.since(before)
    assert found["energy_joules"] == 200
    assert (found["device_bytes"], found["context_bytes"]) == (9 * GIB, 3 * GIB)
    assert found["conditions"].limited_seconds["thermal"] == 3.0, "of the card held back most"


def test_clocks_are_those_between_steps_and_not_of_the_idle_card_at_the_end(driver):
    around = Surroundings(cuda=True)
    before = around.look()
    driver.clock, driver.reasons = 1000, 0x20
    around.sample()
    driver.clock, driver.reasons = 1800, 0x4
    around.sample()
    driver.clock, driver.reasons = 200, 0x1
    seen = around.since(before)["conditions"]
    assert seen.clock_share == 0.5
    assert seen.throttle_reasons == ("sw_thermal_slowdown", "sw_power_cap")
    driver.clock = 400
    assert around.since(around.look())["conditions"].clock_share == 0.2, "a phase without a sample has its end"


def test_what_the_driver_does_not_tell_is_none(driver, monkeypatch):
    def refuse(*_):
        raise RefusedError("not supported")

    for name in [name for name in dir(Driver) if name.startswith("nvmlDeviceGet") and "Handle" not in name]:
        if name not in ("nvmlDeviceGetCount", "nvmlDeviceGetUUID"):
            monkeypatch.setattr(Driver, name, refuse)
    around = Surroundings(cuda=True)
    found = around.since(around.look())
    conditions = dataclasses.asdict(found.pop("conditions"))
    assert found == {
        "device_bytes": None,
        "context_bytes": None,
        "paged_bytes": 0,
        "allocation_retries": 0,
        "energy_joules": None,
    }
    gpu = ("other_device_processes", "clock_share", "temperature_celsius", "throttle_reasons", "limited_seconds")
    assert [conditions[name] for name in gpu] == [None] * 5


def test_a_card_that_lists_nobody_says_nothing_of_company(driver):
    driver.pids = []
    around = Surroundings(cuda=True)
    assert around.since(around.look())["conditions"].other_device_processes is None
    driver.pids = [99]
    assert around.since(around.look())["conditions"].other_device_processes == 0


def test_a_slice_of_a_card_has_no_baseline(driver, monkeypatch):
    monkeypatch.setattr(nvml, "_uuids_of_torchs", lambda: ["GPU-other"])
    around = Surroundings(cuda=True)
    found = around.since(around.look())
    assert (found["device_bytes"], found["energy_joules"]) == (None, None)


@pytest.mark.parametrize("package", [None, "pynvml"])
def test_without_package_or_driver_there_is_nothing_to_ask(monkeypatch, package):
    monkeypatch.setattr(machine_load, "_allocation_retries", lambda: 0)
    monkeypatch.setattr(nvml, "_uuids_of_torchs", lambda: pytest.fail("asked for in vain"))
    monkeypatch.setattr(machine_load, "used_gpus", lambda: [0])
    silent = types.SimpleNamespace(
        NVMLError=RefusedError, nvmlInit=lambda: (_ for _ in ()).throw(RefusedError("no driver"))
    )
    monkeypatch.setitem(sys.modules, "pynvml", silent if package else None)
    found = Surroundings(cuda=True)
    assert found.since(found.look())["energy_joules"] is None


BUSY = """
import pathlib, sys, time
pathlib.Path(sys.argv[1]).touch()
end = time.time() + 20
while time.time() < end:
    pass
"""
ORPHAN = '"$0" -c "$1" "$2" > /dev/null & echo $!'  # its parent ends at once: children of this process are its own work


@contextlib.contextmanager
def busy_elsewhere(folder):
    """A process that keeps a core busy and is nobody's child."""
    words = ["sh", "-c", ORPHAN, sys.executable, BUSY, str(folder / "on")]
    pid = int(subprocess.run(words, stdout=subprocess.PIPE, check=True, text=True).stdout)
    try:
        while not (folder / "on").exists():
            spin(0.01)
        yield
    finally:
        os.kill(pid, signal.SIGKILL)


def spin(seconds):
    import time

    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        pass


@pytest.mark.skipif(not machine_load.busy_seconds(), reason="needs Linux's /proc/stat")
def test_another_process_is_seen_on_the_processor_and_ones_own_work_is_not(tmp_path):
    phases = Phases(False, lambda name: None)
    with phases("load"):
        spin(1.0)
    with busy_elsewhere(tmp_path), phases("train"):
        spin(1.0)
    alone, company = (phases.done[name].conditions for name in ("load", "train"))
    assert company.cpu_cores == alone.cpu_cores >= 1
    assert company.other_cpu_cores > 0.3, "the other process has had a core, or its share of one"
    assert alone.other_cpu_cores is not None
    assert axes.CPU in axes.doubts_of_phase(phases.done["train"]) or company.cpu_cores > 3


def test_a_kernel_that_says_nothing_is_not_taken_for_an_idle_machine(monkeypatch, tmp_path):
    for content in (None, "cpu  0 0 0 0 0 0 0 0 0 0\n", "nonsense\n"):
        stat = tmp_path / "stat"
        stat.write_text(content) if content else stat.unlink(missing_ok=True)
        monkeypatch.setattr(machine_load, "_STAT", stat)
        around = Surroundings(cuda=False)
        assert around.since(around.look())["conditions"].other_cpu_cores is None


def phase(seconds, **fields):
    seen = Conditions(**{"cpu_cores": 4, "other_cpu_cores": 0.0, **fields.pop("conditions", {})})
    blank = {"peak_memory_bytes": None, "peak_reserved_bytes": None, "resident_bytes": None}
    return Phase(seconds=seconds, conditions=seen, **blank, **fields)


def test_a_phase_entered_again_adds_what_adds_up_and_keeps_the_worst():
    one = phase(
        3.0, energy_joules=10.0, allocation_retries=1, device_bytes=5,
        conditions={"other_cpu_cores": 1.0, "clock_share": 0.5, "throttle_reasons": ("sw_power_cap",)},
    )  # fmt: skip
    two = phase(
        1.0, energy_joules=2.0, allocation_retries=2, device_bytes=4,
        conditions={"other_cpu_cores": 0.0, "clock_share": 0.9, "throttle_reasons": ("hw_slowdown",)},
    )  # fmt: skip
    found = machine_load.together(one, two)
    assert (found["energy_joules"], found["allocation_retries"], found["device_bytes"]) == (12.0, 3, 5)
    assert found["paged_bytes"] is None
    seen = found["conditions"]
    assert (seen.other_cpu_cores, seen.clock_share) == (0.75, 0.5)
    assert seen.throttle_reasons == ("sw_power_cap", "hw_slowdown")
    assert machine_load.together(one, dataclasses.replace(two, energy_joules=None))["energy_joules"] is None


@pytest.mark.parametrize(
    ("conditions", "reasons"),
    [
        ({"other_cpu_cores": 0.3}, []),
        ({"other_cpu_cores": 0.5}, [axes.CPU]),
        ({"other_cpu_cores": None}, []),
        ({"throttled_seconds": 0.2}, []),
        ({"throttled_seconds": 1.0}, [axes.LIMIT]),
        ({"other_device_processes": 0}, []),
        ({"other_device_processes": 2}, [axes.COMPANY]),
        ({"throttle_reasons": ("sw_power_cap",)}, []),
        ({"throttle_reasons": ("hw_thermal_slowdown",)}, [axes.CLOCK]),
        ({"limited_seconds": {"power": 9.0, "thermal": 0.05}}, []),
        ({"limited_seconds": {"thermal": 0.2}}, [axes.CLOCK]),
    ],
)
def test_a_timing_is_doubted_for_what_was_seen_and_nothing_else(conditions, reasons):
    assert list(axes.doubts_of_phase(phase(10.0, conditions=conditions))) == reasons


@pytest.mark.gpu
def test_a_real_card_tells_of_a_phase():
    import torch

    phases = Phases(True, lambda name: None)
    with phases("train"):
        block = torch.randn(4096, 4096, device="cuda")
        for _ in range(200):
            block = torch.tanh(block @ block)
    found = phases.done["train"]
    assert found.device_bytes >= block.untyped_storage().nbytes()
    assert found.energy_joules is None or 0 < found.energy_joules < 1000 * found.seconds + 1000
    assert found.allocation_retries == 0
    assert found.conditions.throttle_reasons is not None
    assert 0 < found.conditions.clock_share <= 1.1
    assert 10 < found.conditions.temperature_celsius < 110
