"""Processes that prepare batches: too little shared memory is said before they start, and one that hangs is noticed."""

import os
import signal
import subprocess
import sys
import time
from types import SimpleNamespace

import psutil
import pytest
import torch
from accelerate import Accelerator
from torch.utils.data import DataLoader, Dataset

from harness.train import batches, failure
from harness.train.signals import SIGNALS


def spec(**changes):
    return SimpleNamespace(**{"dataloader_num_workers": 2, "micro_batch_size": 4, "max_length": 512, **changes})


@pytest.fixture
def free(monkeypatch):
    def have(size):
        monkeypatch.setattr(os, "statvfs", lambda _: SimpleNamespace(f_bavail=size // 4096, f_frsize=4096))

    return have


def test_without_processes_nothing_is_looked_at(free):
    free(0)
    assert batches.limit(spec(dataloader_num_workers=0)) == 0


def test_too_little_shared_memory_is_one_clear_error(free):
    free(8 * 2**20)
    with pytest.raises(ValueError, match=r"dataloader_num_workers=2.*8 MiB are free and 16 MiB .*--shm-size.*=0"):
        batches.limit(spec())
    free(64 * 2**20)  # as Docker gives
    assert batches.limit(spec()) == batches.LIMIT_SECONDS
    with pytest.raises(ValueError, match="64 MiB are free"):
        batches.limit(spec(dataloader_num_workers=16, micro_batch_size=32, max_length=4096))


def test_a_machine_without_the_folder_is_not_refused(monkeypatch, tmp_path):
    monkeypatch.setattr(batches, "_SHARED_MEMORY", tmp_path / "nothing")
    assert batches.limit(spec()) == batches.LIMIT_SECONDS


class Hangs(Dataset):
    def __len__(self):
        return 2

    def __getitem__(self, index):
        time.sleep(60)
        return torch.zeros(1)


def test_a_loader_that_hangs_is_a_fault_of_the_machine_after_its_limit():
    with pytest.raises(RuntimeError, match="timed out") as error:
        next(iter(DataLoader(Hangs(), num_workers=1, timeout=1)))
    assert failure.cause(error.value) == "machine"


@pytest.mark.parametrize("prepared", [False, True], ids=["ours", "accelerate's"])
def test_every_loader_has_the_limit(prepared, monkeypatch):
    monkeypatch.setattr(batches, "LIMIT_SECONDS", 1.0)
    loader = DataLoader(Hangs(), num_workers=2)
    guarded = batches.guarded(Accelerator(cpu=True).prepare(loader) if prepared else loader, spec())
    with pytest.raises(RuntimeError, match="timed out after 1"):
        next(iter(guarded))


TOLD = """
import os, signal, sys, time
import torch
from types import SimpleNamespace
from torch.utils.data import DataLoader
from torch.utils.data._utils import signal_handling
from harness.train import batches
from harness.train.signals import SIGNALS, Preemption

starting = sys.argv[1] == "starting"
if starting:
    theirs = signal_handling._set_worker_signal_handlers

    def set_slowly():
        time.sleep(1)
        theirs()

    signal_handling._set_worker_signal_handlers = set_slowly
spec = SimpleNamespace(dataloader_num_workers=2, micro_batch_size=1, max_length=8)
for number in SIGNALS:
    preemption = Preemption()
    with preemption.watched():
        loader = iter(batches.guarded(DataLoader([torch.zeros(1)] * 100, num_workers=2), spec))
        if not starting:
            next(loader)
        try:
            with preemption.deferred():
                os.killpg(0, number)
                begun = time.monotonic()
                while time.monotonic() - begun < 0.5:  # the step under way, in which torch looks at its processes
                    pass
                for _ in range(20):
                    next(loader)
        except Exception as error:
            print(number.name, type(error).__name__, flush=True)
    for other in SIGNALS:
        signal.signal(other, signal.SIG_DFL)
print(*(worker.pid for worker in loader._workers), flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("loaders", ["ready", "starting"])
def test_the_step_under_way_has_its_batches_after_a_signal_to_all_and_no_process_outlives_its_run(loaders):
    command = [sys.executable, "-c", TOLD, loaders]
    run = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        told = [run.stdout.readline() for _ in signal_names()]
        assert told == [f"{name} PreemptedError\n" for name in signal_names()]
        workers = [psutil.Process(int(pid)) for pid in run.stdout.readline().split()]
        assert len(workers) == 2
        run.kill()
        gone, alive = psutil.wait_procs(workers, timeout=2)  # torch's own processes look every five seconds
        assert (len(gone), alive) == (2, [])
    finally:
        run.kill()
        run.communicate()


def signal_names():
    return [signal.Signals(number).name for number in SIGNALS]


def test_too_little_shared_memory_is_said_before_anything_starts(monkeypatch, compose, tiny_overrides):
    from harness.config import config
    from harness.run import inputs, preflight

    words = (*tiny_overrides, "train.dataloader_num_workers=2")
    monkeypatch.setattr(batches, "_free", lambda: 8 * 2**20)
    for method, expected in (("lora", [(0, "wrong")]), ("base", [])):
        experiment = inputs.resolve(config.build(compose(*words, f"method={method}")))
        problems = preflight.check([experiment], lambda event: None)
        assert [problem[:2] for problem in problems] == expected
        assert all("--shm-size" in message for _, _, message in problems)
