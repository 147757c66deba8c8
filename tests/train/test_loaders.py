"""Processes that prepare batches: too little shared memory is said before they start, and one that hangs is noticed."""

import os
import time
from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import DataLoader, Dataset

from harness.train import batches, failure


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
