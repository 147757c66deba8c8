"""Runs mirrored to Weights & Biases, offline: what is written is read back from its own files."""

import json
import multiprocessing
import os
import signal
import struct
import subprocess
import sys
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from harness.config import config
from harness.records import record
from harness.records.record import RunRecord
from harness.records.specs import TrackingSpec
from harness.run import run, sources
from harness.sweep.tracking import Tracker, summary

OFFLINE = TrackingSpec(name="wandb")
NONE = TrackingSpec(name="none")
_BLOCK = 32768  # a .wandb file is a LevelDB log: blocks of records, each with checksum, length and type


def transactions(path: Path):
    """The protocol buffers in a .wandb file."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, position, parts = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        if _BLOCK - position % _BLOCK < 7:
            position += _BLOCK - position % _BLOCK
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        parts += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            found = Record()
            found.ParseFromString(parts)
            yield found
            parts = b""


def items(updates) -> dict:
    return {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in updates}


def mirrored(folder: Path) -> dict:
    """What one offline run holds: id, group, config, steps and summary."""
    [path] = folder.glob("*.wandb")
    found: dict = {"history": [], "summary": {}, "config": {}, "exit": None}
    for part in transactions(path):
        kind = part.WhichOneof("record_type")
        if kind == "run":
            found |= {"id": part.run.run_id, "group": part.run.run_group, "project": part.run.project}
            found["config"] |= items(part.run.config.update)
        elif kind == "history":
            found["history"].append(items(part.history.item))
        elif kind == "summary":
            found["summary"] |= items(part.summary.update)
        elif kind == "exit":
            found["exit"] = part.exit.exit_code
    return found


@pytest.fixture(scope="module")
def tracked(compose, shared_overrides):
    """A run made with the mirror open, as the sweep does it."""
    words = [*shared_overrides(), "method=lora"]
    experiment = sources.resolve(config.build(compose(*words)))
    tracker = Tracker(OFFLINE, Path(experiment.runs_dir), "my-sweep")
    tracker.begin(experiment)
    result = run.run(experiment, partial(tracker.event, experiment))
    tracker.end(experiment, result)
    tracker.close()
    return experiment, result


def test_a_run_is_mirrored_with_config_steps_and_summary(tracked):
    experiment, result = tracked
    folders = list(Path(experiment.runs_dir).glob("wandb/offline-run-*"))
    assert len(folders) == 1
    found = mirrored(folders[0])
    assert found["id"] == f"lora-{experiment.recipe_id}-s0"
    assert (found["group"], found["project"]) == ("my-sweep", "harness")
    assert found["config"]["seed"] == 0
    assert found["config"]["recipe_id"] == experiment.recipe_id
    assert found["config"]["train"]["lr"] == experiment.train.lr
    training = result.current.training
    assert [step["loss"] for step in found["history"]] == pytest.approx(training.losses)
    assert [step["gradient_norm"] for step in found["history"]] == pytest.approx(training.gradient_norms)
    assert [step["_step"] for step in found["history"]] == [1, 2, 3]
    expected = summary(experiment, result)
    assert {key: found["summary"][key] for key in expected} == pytest.approx(expected)
    assert expected["status"] == "ok"
    assert {"trainable_parameters", "peak_memory_bytes", "train_seconds", "file/validation/loss"} <= set(expected)
    assert found["exit"] == 0


def test_nothing_is_written_elsewhere(tracked):
    runs = Path(tracked[0].runs_dir)
    assert {path.name for path in runs.iterdir()} == {tracked[0].recipe_id, "wandb"}
    assert (runs / "wandb" / "tracking.log").is_file()


def test_a_damaged_evaluation_does_not_fail_the_mirror(tracked):
    experiment, result = tracked
    path = experiment.folder / "evaluations" / "0.json"
    path.write_text("{")
    try:
        assert summary(experiment, result)["file/validation/loss"] > 0
    finally:
        path.unlink()


def skipped(experiment) -> RunRecord:
    run.skip(experiment, "needs a GPU")
    return run.read(experiment)


def test_a_run_that_failed_is_mirrored_as_failed(compose, tiny_overrides):
    experiment = sources.resolve(config.build(compose(*tiny_overrides)))
    tracker = Tracker(OFFLINE, Path(experiment.runs_dir), None)
    tracker.begin(experiment)
    tracker.end(experiment, skipped(experiment))
    tracker.begin(experiment)
    run.fail(experiment, "killed by SIGKILL")
    tracker.end(experiment, run.read(experiment))
    tracker.close()
    folders = sorted(Path(experiment.runs_dir).glob("wandb/offline-run-*"))
    found = [mirrored(folder) for folder in folders]
    assert sorted((one["exit"], one["summary"]["status"], one["summary"]["reason"]) for one in found) == [
        (0, "skipped", "needs a GPU"),
        (1, "failed", "killed by SIGKILL"),
    ]


def test_no_tracking_starts_no_process(tmp_path):
    before = multiprocessing.active_children()
    tracker = Tracker(NONE, tmp_path, None)
    tracker.event(SimpleNamespace(method=SimpleNamespace(name="lora"), recipe_id="r", run_seed=0), EVENT)
    tracker.close()
    assert multiprocessing.active_children() == before
    assert list(tmp_path.iterdir()) == []


BROKEN = """
def init(**options):
    raise RuntimeError("this wandb is broken")

class Settings:
    def __init__(self, **options):
        pass
"""


def test_a_broken_wandb_fails_no_run(harness, tiny_overrides, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "wandb.py").write_text(BROKEN)
    words = [*tiny_overrides, "method=base", "tracking=wandb"]
    done = harness("-m", *words, cwd=tmp_path, PYTHONPATH=str(tmp_path / "path"))
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "not logged to wandb: RuntimeError: this wandb is broken" in done.err
    [path] = record.find_runs(tmp_path / "runs")
    assert record.read(RunRecord, path).status == "ok"
    assert "this wandb is broken" in (tmp_path / "runs" / "wandb" / "tracking.log").read_text()
    assert list((tmp_path / "reports").glob("*/report.md"))


def test_a_mirror_that_cannot_write_fails_nothing(compose, tiny_overrides, tmp_path):
    experiment = sources.resolve(config.build(compose(*tiny_overrides)))
    runs = Path(experiment.runs_dir)
    runs.mkdir()
    (runs / "wandb").write_text("a file where a folder is wanted")
    tracker = Tracker(OFFLINE, runs, None)
    tracker.begin(experiment)
    tracker.event(
        experiment, {"loss": 1.0, "done": 1, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens_per_second": None}
    )
    tracker.end(experiment, skipped(experiment))
    tracker.close()
    assert not tracker._process.is_alive()


LEFT_ALONE = """
import os, sys, time
from pathlib import Path
from harness.records.specs import TrackingSpec
from harness.sweep.tracking import Tracker
if __name__ == "__main__":
    tracker = Tracker(TrackingSpec(name="wandb"), Path({runs!r}), None)
    print(tracker._process.pid, flush=True)
    {then}
"""
EVENT = {"loss": 1.0, "done": 1, "gradient_norm": 1.0, "learning_rate": 0.1, "tokens_per_second": None}


def in_a_process(tmp_path: Path, then: str) -> subprocess.Popen:
    script = tmp_path / "left_alone.py"
    script.write_text(LEFT_ALONE.format(runs=str(tmp_path / "runs"), then=then))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def test_a_mirror_whose_sweep_was_killed_goes_too(tmp_path):
    sweep = in_a_process(tmp_path, "time.sleep(100)")
    mirror = int(sweep.stdout.readline())
    deadline = time.monotonic() + 60
    while not (tmp_path / "runs" / "wandb" / "tracking.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    sweep.kill()
    sweep.communicate()
    while psutil.pid_exists(mirror) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not psutil.pid_exists(mirror)


def test_a_mirror_that_was_killed_holds_up_nothing(tmp_path):
    then = f"""
    os.kill(tracker._process.pid, {int(signal.SIGKILL)})
    for _ in range(20000):
        tracker._send("step", "a run", (1, {EVENT!r}))
    tracker.close()
    """.strip()
    sweep = in_a_process(tmp_path, then)
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, err) == (0, "")
    assert not psutil.pid_exists(int(out))


def test_an_interrupt_leaves_the_mirror_to_finish(tmp_path):
    tracker = Tracker(OFFLINE, tmp_path, None)
    deadline = time.monotonic() + 60
    while not (tmp_path / "wandb" / "tracking.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(tracker._process.pid, signal.SIGINT)
    time.sleep(0.5)
    assert tracker._process.is_alive()
    tracker.close()
    assert tracker._process.exitcode == 0
    assert "KeyboardInterrupt" not in (tmp_path / "wandb" / "tracking.log").read_text()
