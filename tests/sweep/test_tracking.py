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
from harness.records.events import StepLogged
from harness.records.record import RunRecord
from harness.records.settings import TrackingSpec
from harness.run import inputs, run, state
from harness.sweep.tracking import Tracker, summary
from harness.train.signals import SIGNALS

OFFLINE = TrackingSpec(name="wandb", group="my-sweep")
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
    mirror: dict = {"history": [], "summary": {}, "config": {}, "metrics": {}, "exit": None}
    for part in transactions(path):
        kind = part.WhichOneof("record_type")
        if kind == "run":
            mirror |= {"id": part.run.run_id, "group": part.run.run_group, "project": part.run.project}
            mirror |= {"name": part.run.display_name, "job_type": part.run.job_type, "tags": [*part.run.tags]}
            mirror["config"] |= items(part.run.config.update)
        elif kind == "history":
            mirror["history"].append(items(part.history.item))
        elif kind == "summary":
            mirror["summary"] |= items(part.summary.update)
        elif kind == "metric":
            metric = part.metric
            kinds = [kind for kind in ("min", "max", "mean", "last") if getattr(metric.summary, kind)]
            mirror["metrics"][metric.name] = kinds
        elif kind == "exit":
            mirror["exit"] = part.exit.exit_code
    return mirror


def make(experiment) -> RunRecord:
    """Make a run with the mirror open, as the sweep does it."""
    tracker = Tracker(OFFLINE, Path(experiment.runs_dir))
    tracker.begin(experiment)
    result = run.run(experiment, partial(tracker.event, experiment))
    tracker.end(experiment, result)
    tracker.close()
    return result


@pytest.fixture(scope="module")
def tracked(compose, shared_overrides):
    """A run beside its base model: what the mirror of each holds, and the record of the trained one."""
    words = shared_overrides()
    base = inputs.resolve(config.build(compose(*words, "method=base")))
    make(base)
    experiment = inputs.resolve(config.build(compose(*words, "method=lora", "method.r=4", "train.eval_every=1")))
    result = make(experiment)
    by_method = {one["name"].split("-")[0]: one for one in mirrors(experiment)}
    return experiment, result, by_method


def mirrors(experiment) -> list[dict]:
    return [mirrored(folder) for folder in sorted(Path(experiment.runs_dir).glob("wandb/offline-run-*"))]


def test_a_run_is_mirrored_with_config_steps_and_summary(tracked):
    experiment, result, shown = tracked[0], tracked[1], tracked[2]["lora"]
    assert shown["name"] == f"lora-{experiment.recipe_id}-s0"
    assert (shown["group"], shown["project"], shown["job_type"]) == ("my-sweep", "harness", "train")
    assert shown["tags"] == ["lora", experiment.model.name, experiment.data.name, "my-sweep"]
    training = result.training
    steps = {step["_step"]: step for step in shown["history"]}
    assert sorted(steps) == [1, 2, 3]
    assert [steps[step]["train/loss"] for step in steps] == pytest.approx(training.losses)
    assert [steps[step]["train/gradient_norm"] for step in steps] == pytest.approx(training.gradient_norms)
    assert [steps[step]["train/learning_rate"] for step in steps] == pytest.approx(training.learning_rates)
    assert [(step, steps[step]["val/loss"]) for step in steps] == [
        (step, pytest.approx(loss)) for step, loss in training.validation
    ]
    expected = summary(experiment, result)
    assert {key: shown["summary"][key] for key in expected} == pytest.approx(expected)
    assert expected["status"] == "ok"
    assert {"trainable_parameters", "peak_memory_bytes", "train_seconds", "eval/file/validation/loss"} <= set(expected)
    assert shown["metrics"]["train/loss"] == shown["metrics"]["val/loss"] == ["min"]
    assert shown["exit"] == 0


def test_the_configuration_keeps_the_settings_of_the_method_and_names_code_and_device(tracked):
    experiment, result, shown = tracked[0], tracked[1], tracked[2]["lora"]
    settings = shown["config"]
    assert settings["method"] == {**json.loads(json.dumps(result.recipe["method"])), "name": "lora"}
    assert settings["method"]["r"] == 4
    assert settings["method_name"] == "lora"
    assert (settings["seed"], settings["recipe_id"]) == (0, experiment.recipe_id)
    assert settings["train"]["lr"] == experiment.train.lr
    made_by = result.current.provenance
    assert (settings["harness"], settings["commit"]) == (made_by["harness"], made_by["commit"])
    assert (settings["device"], settings["device_name"]) == (made_by["device"], made_by["device_name"])
    assert settings["model_id"] == experiment.model.path


def test_final_scores_have_their_errors_and_the_difference_to_the_base_model(tracked):
    experiment, _, mirror_of = tracked
    compared = 0
    for path in sorted((experiment.folder / "evaluations").glob("*.json")):
        scores = record.read(record.EvaluationRecord, path)
        task = f"eval/{scores.evaluation['task']}"
        assert mirror_of["lora"]["summary"][f"{task}/n"] == scores.num_items
        for name, metric in scores.metrics.items():
            assert mirror_of["lora"]["summary"][f"{task}/{name}"] == pytest.approx(metric.value)
            if metric.stderr is not None:
                assert mirror_of["lora"]["summary"][f"{task}/{name}_stderr"] == pytest.approx(metric.stderr)
            before = mirror_of["base"]["summary"][f"{task}/{name}"]
            assert mirror_of["lora"]["summary"][f"{task}/{name}_vs_base"] == pytest.approx(metric.value - before)
            compared += 1
    assert compared >= 2
    assert not any(key.endswith("_vs_base") for key in mirror_of["base"]["summary"])


def test_a_run_that_is_made_again_is_another_run_of_the_mirror(compose, tiny_overrides):
    """Steps of the second attempt are below those of the first: W&B would drop them from an older run."""
    words = [*tiny_overrides, "method=lora"]
    for force in ("force=false", "force=true"):
        make(inputs.resolve(config.build(compose(*words, force))))
    first, second = mirrors(config.build(compose(*words)))
    assert first["id"] != second["id"]
    assert first["name"] == second["name"]
    assert [[step["_step"] for step in one["history"]] for one in (first, second)] == [[1, 2, 3], [1, 2, 3]]


def test_nothing_is_written_elsewhere(tracked):
    runs = Path(tracked[0].runs_dir)
    assert {path.name for path in runs.iterdir() if not path.is_dir() or path.name == "wandb"} == {"wandb"}
    assert len([path for path in runs.iterdir() if path.name != "wandb"]) == 2
    assert (runs / "wandb" / "tracking.log").is_file()


def test_a_damaged_evaluation_does_not_fail_the_mirror(tracked):
    experiment, result, _ = tracked
    path = experiment.folder / "evaluations" / "0.json"
    path.write_text("{")
    try:
        assert summary(experiment, result)["eval/file/validation/loss"] > 0
    finally:
        path.unlink()


def skipped(experiment) -> RunRecord:
    run.skip(experiment, "needs a GPU")
    return state.read(experiment)


def test_a_run_that_failed_is_mirrored_as_failed(compose, tiny_overrides):
    experiment = inputs.resolve(config.build(compose(*tiny_overrides)))
    tracker = Tracker(OFFLINE, Path(experiment.runs_dir))
    tracker.begin(experiment)
    tracker.end(experiment, skipped(experiment))
    tracker.begin(experiment)
    run.fail(experiment, "killed by SIGKILL")
    tracker.end(experiment, state.read(experiment))
    tracker.close()
    folders = sorted(Path(experiment.runs_dir).glob("wandb/offline-run-*"))
    found = [mirrored(folder) for folder in folders]
    assert sorted((one["exit"], one["summary"]["status"], one["summary"]["reason"]) for one in found) == [
        (0, "skipped", "needs a GPU"),
        (1, "failed", "killed by SIGKILL"),
    ]


def test_no_tracking_starts_no_process(tmp_path):
    before = multiprocessing.active_children()
    tracker = Tracker(NONE, tmp_path)
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
    experiment = inputs.resolve(config.build(compose(*tiny_overrides)))
    runs = Path(experiment.runs_dir)
    runs.mkdir()
    (runs / "wandb").write_text("a file where a folder is wanted")
    tracker = Tracker(OFFLINE, runs)
    tracker.begin(experiment)
    tracker.event(experiment, StepLogged(1, 1, loss=1.0, gradient_norm=1.0, learning_rate=0.1, tokens_per_second=None))
    tracker.end(experiment, skipped(experiment))
    tracker.close()
    assert not tracker._process.is_alive()


LEFT_ALONE = """
import os, sys, time
from pathlib import Path
from harness.records.settings import TrackingSpec
from harness.sweep.tracking import Tracker
if __name__ == "__main__":
    tracker = Tracker(TrackingSpec(name="wandb"), Path({runs!r}))
    print(tracker._process.pid, flush=True)
    {then}
"""
EVENT = StepLogged(1, 1, loss=1.0, gradient_norm=1.0, learning_rate=0.1, tokens_per_second=None)


def in_a_process(tmp_path: Path, then: str) -> subprocess.Popen:
    script = tmp_path / "left_alone.py"
    script.write_text(LEFT_ALONE.format(runs=str(tmp_path / "runs"), then=then))
    return subprocess.Popen([sys.executable, str(script)], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


UNGUARDED = """
import sys, time
from pathlib import Path
from harness.records.settings import TrackingSpec
from harness.sweep.tracking import Tracker
with Path({file!r}).open("a") as file:
    file.write("begun\\n")
tracker = Tracker(TrackingSpec(name="{name}"), Path({runs!r}))
tracker._process.join(1)
while tracker._process.is_alive() and not Path({runs!r}, "{name}", "tracking.log").exists():
    time.sleep(0.1)
print(tracker._process.is_alive())
tracker.close()
"""


@pytest.mark.parametrize("name", ["wandb", "tensorboard", "trackio"])
def test_a_script_without_a_guard_is_not_run_again_by_the_mirror(tmp_path, name):
    """As `run_experiment` is used: multiprocessing would import the script in the mirror, which then ended."""
    script, file = tmp_path / "unguarded.py", tmp_path / "begun"
    script.write_text(UNGUARDED.format(file=str(file), runs=str(tmp_path / "runs"), name=name))
    command, environment = [sys.executable, str(script)], {**os.environ, "PYTHONPATH": str(Path.cwd())}
    done = subprocess.run(command, capture_output=True, text=True, timeout=80, check=False, env=environment)
    assert (done.stdout, done.stderr, file.read_text()) == ("True\n", "", "begun\n")


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
        tracker._send("step", "a run", (1, {{"train/loss": 1.0}}))
    tracker.close()
    """.strip()
    sweep = in_a_process(tmp_path, then)
    out, err = sweep.communicate(timeout=60)
    assert (sweep.returncode, err) == (0, "")
    assert not psutil.pid_exists(int(out))


@pytest.mark.parametrize("number", [signal.SIGINT, *SIGNALS])
def test_a_signal_to_all_leaves_the_mirror_to_finish(tmp_path, number):
    """A scheduler sends its signal to every process, and the last steps before it are still to be mirrored."""
    tracker = Tracker(OFFLINE, tmp_path)
    deadline = time.monotonic() + 60
    while not (tmp_path / "wandb" / "tracking.log").exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert os.getpgid(tracker._process.pid) != os.getpgid(0), "nor do the client's own processes get it"
    os.kill(tracker._process.pid, number)
    time.sleep(0.5)
    assert tracker._process.is_alive()
    tracker.close()
    assert tracker._process.exitcode == 0
    assert "KeyboardInterrupt" not in (tmp_path / "wandb" / "tracking.log").read_text()


def test_a_command_that_leaves_its_mirror_open_ends(tmp_path):
    """multiprocessing asks a daemon to end by a signal that the mirror does not heed, and waits for it."""
    log = str(tmp_path / "runs" / "wandb" / "tracking.log")
    sweep = in_a_process(tmp_path, f"while not Path({log!r}).exists(): time.sleep(0.1)")
    try:
        out, err = sweep.communicate(timeout=60)
    finally:
        sweep.kill()
    assert (sweep.returncode, err) == (0, "")
    assert not psutil.pid_exists(int(out))
