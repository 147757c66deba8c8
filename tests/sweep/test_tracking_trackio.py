"""Runs mirrored to Trackio's local store: what is written is read back with Trackio's own reader.

Trackio takes pillow below 13, which the pinned environment does not have: an environment with the extra runs all of it.
"""

import json
import os
import subprocess
import sys
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from harness.config import checks, config
from harness.records.settings import TrackingSpec
from harness.run import inputs, run
from harness.sweep.tracking import Tracker, summary

installed = pytest.mark.skipif(find_spec("trackio") is None, reason="needs the extra: pip install 'harness[trackio]'")
READ = """
import json, sys
from trackio.sqlite_storage import SQLiteStorage
runs = []
for one in SQLiteStorage.get_run_records("harness"):
    logs = SQLiteStorage.get_logs("harness", one["name"], run_id=one["id"])
    config = SQLiteStorage.get_run_config("harness", one["name"], run_id=one["id"])
    runs.append({"name": one["name"], "logs": logs, "config": config})
print(json.dumps({"projects": SQLiteStorage.get_projects(), "runs": runs}))
"""


def stored(runs: Path) -> list[dict]:
    """What Trackio's own reader finds below a runs folder: the runs, each with its logs and its configuration."""
    environment = {**os.environ, "TRACKIO_DIR": str(runs / "trackio")}
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True, timeout=120
    )
    content = json.loads(done.stdout.splitlines()[-1])
    assert content["projects"] == ["harness"]
    return content["runs"]


@pytest.fixture(scope="module")
def tracked(compose, shared_overrides):
    """A run that was made twice with the mirror open."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TRACKIO_SPACE_ID", "someone/elsewhere")  # offline stays offline
        words = [*shared_overrides(), "method=lora", "train.eval_every=1"]
        for force in ("force=false", "force=true"):
            experiment = inputs.resolve(config.build(compose(*words, force)))
            tracker = Tracker(TrackingSpec(name="trackio", group="my-sweep"), Path(experiment.runs_dir))
            tracker.begin(experiment)
            result = run.run(experiment, partial(tracker.event, experiment))
            tracker.end(experiment, result)
            tracker.close()
    return experiment, result


@installed
def test_a_run_is_mirrored_with_config_steps_and_summary(tracked):
    experiment, result = tracked
    first, second = stored(Path(experiment.runs_dir))
    assert first["name"] == second["name"] == f"lora-{experiment.recipe_id}-s0"
    for name, values in (
        ("train/loss", result.training.losses),
        ("train/learning_rate", result.training.learning_rates),
        ("val/loss", [loss for _, loss in result.training.validation]),
    ):
        steps = {entry["step"]: entry[name] for entry in second["logs"] if name in entry}
        assert [steps[step] for step in (1, 2, 3)] == pytest.approx(values), name
    expected = summary(experiment, result)
    [last] = [entry for entry in second["logs"] if "summary/status" in entry]
    assert {key: last[f"summary/{key}"] for key in expected} == pytest.approx(expected)
    assert {"trainable_parameters", "train_seconds", "eval/file/validation/loss"} <= set(expected)
    settings = second["config"]
    assert (settings["recipe_id"], settings["seed"]) == (experiment.recipe_id, 0)
    assert (settings["_Group"], settings["tags"]) == (
        "my-sweep",
        ["lora", experiment.model.name, experiment.data.name, "my-sweep"],
    )
    assert not any("cpu" in key for entry in second["logs"] for key in entry)


@installed
def test_nothing_is_written_elsewhere(tracked):
    runs = Path(tracked[0].runs_dir)
    assert {path.name for path in runs.iterdir()} == {"trackio", "data", tracked[0].recipe_id}
    assert "Traceback" not in (runs / "trackio" / "tracking.log").read_text()


@installed
def test_runs_at_one_time_do_not_end_each_other(compose, shared_overrides):
    words = shared_overrides()
    experiments = [inputs.resolve(config.build(compose(*words, "method=base", f"model.name=m{i}"))) for i in (0, 1)]
    tracker = Tracker(TrackingSpec(name="trackio"), Path(experiments[0].runs_dir))
    for experiment in experiments:
        tracker.begin(experiment)
    for experiment in experiments:
        tracker.end(experiment, run.run(experiment, partial(tracker.event, experiment)))
    tracker.close()
    both = stored(Path(experiments[0].runs_dir))
    assert len({entry["name"] for entry in both}) == 2
    assert all(any("summary/status" in line for line in entry["logs"]) for entry in both)


@installed
def test_a_sweep_is_mirrored_by_the_command(harness, tiny_overrides, tmp_path):
    words = [word for word in tiny_overrides if not word.startswith("tracking=")]
    done = harness("-m", *words, "method=base,lora", "tracking=trackio", cwd=tmp_path)
    assert done.code == 0, done.err
    assert {entry["name"].partition("-")[0] for entry in stored(tmp_path / "runs")} == {"base", "lora"}


BROKEN = "def init(*arguments, **options):\n    raise RuntimeError('this trackio is broken')\n"


def test_a_broken_trackio_fails_no_run(harness, tiny_overrides, tmp_path):
    (tmp_path / "path").mkdir()
    (tmp_path / "path" / "trackio.py").write_text(BROKEN)
    words = [word for word in tiny_overrides if not word.startswith("tracking=")]
    done = harness(*words, "method=base", "tracking=trackio", cwd=tmp_path, PYTHONPATH=str(tmp_path / "path"))
    assert done.code == 0, done.err
    assert "Traceback" not in done.err
    assert "this trackio is broken" in (tmp_path / "runs" / "trackio" / "tracking.log").read_text()


def test_what_it_cannot_do_is_refused_before_anything_starts(compose, monkeypatch):
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(
        ValueError, match=r"tracking=trackio needs the package trackio: pip install 'harness\[trackio\]"
    ):
        config.build(compose("tracking=trackio"))
    monkeypatch.setattr(checks, "find_spec", lambda name: name)
    with pytest.raises(ValueError, match=r"tracking.entity=me: only tracking=wandb has one"):
        config.build(compose("tracking=trackio", "tracking.entity=me"))
    for name in ("TRACKIO_SPACE_ID", "TRACKIO_SERVER_URL"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ValueError, match=r"neither is set in the environment"):
        config.build(compose("tracking=trackio", "tracking.mode=online"))
    monkeypatch.setenv("TRACKIO_SPACE_ID", "me/board")
    assert config.build(compose("tracking=trackio", "tracking.mode=online")).tracking.mode == "online"
