"""Real runs that are told to end: a step is finished, a checkpoint written, and the same command goes on from it."""

import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.torch import load_file

from harness.config import config
from harness.records import record
from harness.records.events import Message
from harness.records.record import RunRecord
from harness.run import inputs, run
from harness.train import checkpoint

ROOT = Path(__file__).parents[2]
STEPS = 150
LONG = [f"train.max_steps={STEPS}", "train.checkpoint_seconds=0.2"]


@pytest.fixture(scope="module")
def make(compose):
    return lambda *words: inputs.resolve(config.build(compose(*words)))


RUN = ["method=lora", "method.lora_dropout=0.1", *LONG]


@pytest.fixture(scope="module")
def plain(make, shared_overrides):
    """A run that nothing has interrupted."""
    experiment = make(*shared_overrides(), *RUN)
    return experiment, run.run(experiment, lambda event: None)


@dataclasses.dataclass
class Interrupted:
    """`python -m harness`, sent a signal in the midst of training: the run, the exit code and the last words."""

    words: list[str]
    experiment: object
    code: int
    err: str

    @property
    def step(self):
        return checkpoint.step_of(checkpoint.newest(checkpoint.folder(self.experiment.folder)))

    @property
    def record(self):
        return record.read(RunRecord, self.experiment.folder / "record.json")


def interrupt(make, words, number, group, launcher=()):
    experiment = make(*words, *RUN)
    command = [sys.executable, "-m", "harness", *words, *RUN, *launcher]
    process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True, start_new_session=True)
    deadline = time.monotonic() + 120
    while checkpoint.newest(checkpoint.folder(experiment.folder)) is None and time.monotonic() < deadline:
        time.sleep(0.01)
    (os.killpg if group else os.kill)(process.pid, number)
    _, err = process.communicate(timeout=60)
    return Interrupted(words, experiment, process.returncode, err)


@pytest.fixture(scope="module")
def preempted(make, shared_overrides):
    """As SLURM does it: a signal for every process of the step."""
    return interrupt(make, shared_overrides(), signal.SIGUSR2, group=True)


def same_as(plain, result, experiment):
    expected, training = plain[1].training, result.training
    for name in ("losses", "gradient_norms", "learning_rates", "real_tokens", "trained_tokens", "sequences"):
        assert getattr(training, name) == getattr(expected, name), name
    assert training.train_seconds == pytest.approx(sum(training.step_seconds))
    weights, wanted = (load_file(one.weights_folder / "adapter_model.safetensors") for one in (experiment, plain[0]))
    assert all(bool((weights[name] == wanted[name]).all()) for name in wanted)


def resume_hint(plain, one, statuses):
    """Ask for the run again."""
    step, folder = one.step, checkpoint.folder(one.experiment.folder)
    result = run.run(one.experiment, lambda event: None)
    assert [attempt.status for attempt in result.attempts] == statuses
    assert result.current.resumed_at_step == step
    assert not folder.exists()
    same_as(plain, result, one.experiment)


def assert_told(one, number):
    assert one.code == 128 + number, one.err
    assert "preempted: what was finished is kept" in one.err
    assert "Traceback" not in one.err
    assert 0 < one.step < STEPS
    where = f"preempted in phase train at {one.step} of {STEPS}; can be resumed from step {one.step}"
    assert (one.record.status, one.record.current.reason) == ("failed", where)
    assert one.record.measured.phases["train"].seconds > 0


def test_what_is_not_the_runs_own_is_set_aside(make, tiny_overrides, plain, preempted):
    experiment = make(*tiny_overrides, *RUN)
    shutil.copytree(preempted.experiment.folder, experiment.folder)
    file = checkpoint.newest(checkpoint.folder(experiment.folder))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    events = []
    result = run.run(experiment, events.append)
    said = [event.text for event in events if isinstance(event, Message)]
    assert len(said) == 1
    assert "training from the beginning" in said[0]
    assert "damaged, its checksum" in said[0]
    assert result.current.resumed_at_step is None
    assert [path.name for path in (experiment.folder / "checkpoint.set-aside").iterdir()] == [file.name]
    same_as(plain, result, experiment)


def test_a_run_that_slurm_preempts_goes_on_to_the_bit(plain, preempted):
    assert_told(preempted, signal.SIGUSR2)
    resume_hint(plain, preempted, ["failed", "ok"])


def test_the_command_alone_is_told_to_end_where_its_runs_are_threads(make, tiny_overrides, plain):
    one = interrupt(make, tiny_overrides, signal.SIGTERM, group=False, launcher=["hydra/launcher=local"])
    assert_told(one, signal.SIGTERM)
    resume_hint(plain, one, ["failed", "ok"])


def test_a_run_that_is_killed_goes_on_from_its_last_checkpoint(make, tiny_overrides, plain):
    one = interrupt(make, tiny_overrides, signal.SIGKILL, group=True)
    assert one.code == -signal.SIGKILL
    resume_hint(plain, one, ["ok"])


def test_how_often_is_no_part_of_the_recipe(make, tiny_overrides):
    often, never = (make(*tiny_overrides, f"train.checkpoint_seconds={seconds}") for seconds in (1, "null"))
    assert often.recipe_id == never.recipe_id
    assert "checkpoint_seconds" not in json.dumps(run.recipe(often))
