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
