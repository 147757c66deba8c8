"""Peaks of real allocations, of this process."""

import sys
import time
from pathlib import Path

import pytest

from harness.measure import memory
from harness.measure.memory import Phases

MB = 1_000_000
pytestmark = pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="needs Linux's /proc")


def allocate(megabytes):
    """Memory that is touched, and free again when the result is dropped."""
    block = bytearray(megabytes * MB)
    block[::4096] = b"x" * len(block[::4096])
    return block


@pytest.fixture
def phases():
    return Phases(False, lambda name: None)


def test_a_peak_is_what_the_phase_held_and_the_next_phase_starts_anew(phases):
    with phases("load"):
        allocate(200)
    with phases("train"):
        allocate(20)
    with phases("evaluate"):
        pass
    peaks = {name: phase.peak_memory_bytes / MB for name, phase in phases.done.items()}
    assert 190 < peaks["load"] < 230
    assert 15 < peaks["train"] < 50
    assert peaks["evaluate"] < 15


def test_what_stays_is_not_the_next_phases(phases):
    with phases("load"):
        kept = allocate(100)
    with phases("train"):
        allocate(50)
    assert phases.done["train"].resident_bytes >= phases.done["load"].resident_bytes + 80 * MB
    assert 40 * MB < phases.done["train"].peak_memory_bytes < 80 * MB
    assert 140 * MB < phases.headline_bytes() < 190 * MB, "the headline is above what there was before loading"
    del kept


def test_a_phase_entered_again_adds_its_seconds_and_keeps_the_higher_peak(phases):
    for megabytes in (100, 10):
        with phases("evaluate"):
            allocate(megabytes)
            time.sleep(0.05)
    phase = phases.done["evaluate"]
    assert phase.seconds >= 0.1
    assert phase.peak_memory_bytes > 90 * MB
    with phases("evaluate"):
        pass
    assert phases.done["evaluate"].peak_memory_bytes == phase.peak_memory_bytes
    assert phases.done["evaluate"].seconds > phase.seconds


def test_a_phase_that_grew_by_nothing_does_not_forget_a_peak(phases, monkeypatch):
    with phases("evaluate"):
        allocate(100)
    earlier = phases.done["evaluate"].peak_memory_bytes
    monkeypatch.setattr(memory, "_status_bytes", lambda field: MB)
    with phases("evaluate"):
        pass
    assert phases.done["evaluate"].peak_memory_bytes == earlier


def test_a_phase_that_raises_is_measured(phases):
    with pytest.raises(TypeError), phases("train"):
        allocate(100) + None
    assert phases.done["train"].peak_memory_bytes > 90 * MB


def test_a_phase_inside_another_is_measured_apart(phases):
    began = time.perf_counter()
    with phases("train"):
        allocate(40)
        held = allocate(10)
        with phases("validate"):
            allocate(200)
            time.sleep(0.2)
        allocate(60)
    seconds = time.perf_counter() - began
    del held
    train, validate = phases.done["train"], phases.done["validate"]
    assert 195 * MB < validate.peak_memory_bytes < 230 * MB
    assert 65 * MB < train.peak_memory_bytes < 100 * MB, "above what there was before the phase, in all its stretches"
    assert phases.headline_bytes() < 120 * MB
    assert validate.seconds >= 0.2
    assert train.seconds <= seconds - 0.2, "however slow the machine is"


def test_a_phase_goes_on_after_one_inside_it_has_failed():
    told = []
    phases = Phases(False, told.append)
    with phases("train"):
        with pytest.raises(MemoryError), phases("validate"):
            raise MemoryError
        assert told == ["train", "validate"], "the last one announced is where it ended"
        allocate(50)
    assert phases.done["train"].peak_memory_bytes > 45 * MB
    with phases("train"):
        pass
    assert told[-1] == "train"


class _Cuda:
    """What `Phases` asks of torch.cuda, for a device that answers until it is broken."""

    def __init__(self):
        self.broken, self.waits, self.allocated, self.reserved = False, 0, 6_000, 7_000

    def device_count(self):
        return 1

    def synchronize(self):
        self.waits += 1
        if self.broken:
            raise RuntimeError("CUDA error: unspecified launch failure")

    def reset_peak_memory_stats(self, index):
        pass

    def max_memory_allocated(self, index):
        return self.allocated

    def max_memory_reserved(self, index):
        return self.reserved


@pytest.fixture
def gpu_phases(monkeypatch):
    """Phases on a played device whose driver counts a context of 500 bytes."""
    import torch

    played = _Cuda()
    for name in (
        "device_count",
        "synchronize",
        "reset_peak_memory_stats",
        "max_memory_allocated",
        "max_memory_reserved",
    ):
        monkeypatch.setattr(torch.cuda, name, getattr(played, name))
    phases = Phases(False, lambda name: None)
    told = {"context_bytes": 500, "device_bytes": 7_100}
    monkeypatch.setattr(phases._surroundings, "since", lambda look: told)
    monkeypatch.setattr(phases, "_cuda", True)
    return phases, played, told


def test_a_gpu_must_have_what_its_allocator_held_and_the_context(gpu_phases):
    phases, _, told = gpu_phases
    assert phases.required_bytes() is None
    with phases("load"):
        pass
    assert phases.required_bytes() == 7_500
    told["context_bytes"] = None
    with phases("train"):
        pass
    assert phases.required_bytes() == 7_500, "the context is the process's, told of once"
    assert phases.headline_bytes() == 6_000
    assert Phases(False, lambda name: None).required_bytes() is None


def test_what_validation_leaves_in_the_cache_is_not_what_training_must_have(gpu_phases):
    """torch's allocator keeps it, so that the peak of what it holds begins there when training goes on."""
    phases, played, _ = gpu_phases
    with phases("train"), phases("validate"):
        played.reserved = 9_000
    reserved = {name: phase.peak_reserved_bytes for name, phase in phases.done.items()}
    assert reserved == {"train": 7_000, "validate": 9_000}
    assert phases.required_bytes() == 7_500
    with phases("train"):
        with phases("validate"):
            pass
        played.reserved = 9_500
    assert phases.done["train"].peak_reserved_bytes == 9_500, "training has taken more itself"


def test_what_is_set_aside_counts_for_time_and_not_for_memory(phases):
    with phases("train"):
        held = allocate(10)
        with phases.aside():
            allocate(200)
            time.sleep(0.1)
        allocate(40)
    del held
    assert 45 * MB < phases.done["train"].peak_memory_bytes < 90 * MB
    assert phases.headline_bytes() < 120 * MB
    assert phases.done["train"].seconds >= 0.1
    with phases.aside():  # outside of a phase there is nothing to leave out
        pass
    assert set(phases.done) == {"train"}


def test_on_a_gpu_neither_peak_nor_cache_of_what_is_set_aside_counts(gpu_phases):
    phases, played, _ = gpu_phases
    with phases("train"):
        with phases.aside():
            played.allocated, played.reserved = 8_000, 9_000
        played.allocated = 6_100  # the cache keeps the rest
    assert (phases.done["train"].peak_memory_bytes, phases.done["train"].peak_reserved_bytes) == (6_100, 7_000)
    assert (phases.headline_bytes(), phases.required_bytes()) == (6_100, 7_500)


def test_what_fails_aside_leaves_the_peaks_before_it(gpu_phases):
    phases, played, _ = gpu_phases

    def work():
        with phases("train"), phases.aside():
            played.allocated = 8_000
            raise MemoryError

    with pytest.raises(MemoryError):
        work()
    assert phases.done["train"].peak_memory_bytes == 6_000


def test_a_device_that_answers_no_more_does_not_hide_why(gpu_phases):
    phases, played, _ = gpu_phases

    def work():
        with phases("train"), phases("validate"):
            played.broken = True
            raise RuntimeError("CUDA error: an illegal memory access was encountered")

    with pytest.raises(RuntimeError, match="illegal memory access"):
        work()
    assert set(phases.done) == {"train", "validate"}


def test_the_headline_is_of_loading_and_training_only(phases):
    assert phases.headline_bytes() is None
    with phases("load"):
        allocate(30)
    with phases("evaluate"):
        allocate(200)
    assert 20 * MB < phases.headline_bytes() < 100 * MB


def test_phases_are_announced_as_they_begin():
    told = []
    phases = Phases(False, told.append)
    with phases("load"):
        assert told == ["load"]


def test_what_the_kernel_does_not_say_is_none(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    phases = Phases(False, lambda name: None)
    with phases("load"):
        allocate(1)
    assert phases.done["load"].peak_memory_bytes is None
    assert phases.done["load"].resident_bytes is not None
    assert phases.headline_bytes() is None

    monkeypatch.setattr(memory, "_STATUS", tmp_path / "no" / "status")
    phases = Phases(False, lambda name: None)
    with phases("load"):
        allocate(1)
    assert phases.done["load"].seconds > 0
    assert (phases.done["load"].peak_memory_bytes, phases.done["load"].resident_bytes) == (None, None)
    assert phases.headline_bytes() is None
    assert memory.resident_bytes() is None


def test_a_peak_that_is_unknown_once_stays_unknown(phases, monkeypatch, tmp_path):
    with phases("train"):
        allocate(10)
    monkeypatch.setattr(memory, "_CLEAR_REFS", tmp_path / "no" / "clear_refs")
    with phases("train"):
        allocate(300)
    assert phases.done["train"].peak_memory_bytes is None
    assert phases.headline_bytes() is None


def test_measuring_on_the_cpu_imports_no_torch():
    import subprocess

    code = "import sys; from harness.measure import memory, steps; assert 'torch' not in sys.modules"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
