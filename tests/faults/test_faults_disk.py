"""A disk that is full, and a folder that may not be written: what is there stays whole, and the next start goes on."""

import contextlib
import dataclasses
import subprocess
import time

import pytest

from harness.config import config
from harness.records import record
from harness.records.events import Message, PhaseStarted
from harness.records.record import RunRecord
from harness.run import inputs, run
from tests.faults.faults_kept import Kept, content, records, runs_of


@pytest.fixture
def disk(tmp_path):
    """A small file system of its own, and what changes it."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(*options: str) -> bool:
        command = ["mount", "-t", "tmpfs", *options, "tmpfs", str(folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    if not mount("-o", "size=256k"):
        pytest.skip("mounting needs root")

    def remount(options: str) -> bool:
        """Wait for processes of the last start that still hold a file open: until then a disk cannot be read-only."""
        deadline = time.monotonic() + 60
        while not (done := mount("-o", f"remount,{options}")) and time.monotonic() < deadline:
            time.sleep(0.1)
        return done

    yield folder, remount
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_and_a_read_only_one_spoil_nothing(driver, plan, disk):
    folder, remount = disk
    expected = plan()
    assert driver.play(expected)[0][0] == 0
    path = plan(runs_dir=str(folder / "runs"))
    kept = Kept(runs_of(path))
    (folder / "filler").write_bytes(b"0" * (140 << 10))  # so that the disk is full in the middle of the sweep
    assert driver.play(path)[0][0] != 0
    kept.check()
    before = len(records(runs_of(path)))
    assert before < 5
    assert remount("size=256k,ro")
    assert driver.play(path)[0][0] != 0
    kept.check()
    assert len(records(runs_of(path))) == before
    assert remount("size=8m,rw")
    assert driver.play(path)[0][0] == 0
    kept.check()
    kept.whole()
    assert content(runs_of(path)) == content(runs_of(expected))


def test_a_disk_that_fills_while_a_run_trains_costs_that_attempt(compose, tiny_overrides, disk):
    """Neither a checkpoint nor the weights have room, the record has; with room the next start makes the run."""
    folder, remount = disk
    words = (*tiny_overrides, "method=full", "train.checkpoint_seconds=0")
    undisturbed = inputs.resolve(config.build(compose(*words)))
    assert run.run(undisturbed, lambda event: None).status == "ok"
    experiment = dataclasses.replace(undisturbed, runs_dir=str(folder / "runs"))
    events = []
    failed = run.run(experiment, events.append)
    assert (failed.status, failed.training is not None) == ("failed", True)
    assert "No space left on device" in failed.current.reason
    said = [event.text for event in events if isinstance(event, Message)]
    assert sum("no checkpoint at step" in line and "No space left" in line for line in said) >= 1
    assert record.read(RunRecord, experiment.folder / "record.json") == failed
    assert not list(folder.rglob("*.safetensors")), "nothing half-written"
    assert not [path for path in folder.rglob(".*") if path.is_file() and path.stat().st_size > 4096]
    assert remount("size=8m")
    again = run.run(experiment, events.append)
    assert (again.status, len(again.attempts)) == ("ok", 2)
    weights, expected = ((one.weights_folder / "model.safetensors").read_bytes() for one in (experiment, undisturbed))
    assert weights == expected


def test_a_disk_without_one_byte_left_keeps_why_the_attempt_ended(compose, tiny_overrides, disk):
    """The record goes into space that was held for it from the start of the attempt."""
    folder, remount = disk
    assert remount("size=8m")
    words = (*tiny_overrides, "method=full", "train.checkpoint_seconds=0")
    experiment = dataclasses.replace(inputs.resolve(config.build(compose(*words))), runs_dir=str(folder / "runs"))

    def fill(event):
        if isinstance(event, PhaseStarted) and event.name == "train":
            with contextlib.suppress(OSError), (folder / "filler").open("wb", buffering=0) as file:
                while True:
                    file.write(b"0" * 512)

    failed = run.run(experiment, fill)
    assert (folder / "filler").exists()
    assert failed.status == "failed"
    assert "No space left on device" in failed.current.reason
    assert record.read(RunRecord, experiment.folder / "record.json") == failed
    (folder / "filler").unlink()
    assert run.run(experiment, lambda event: None).status == "ok"
    assert not list(folder.rglob(".reserve"))
