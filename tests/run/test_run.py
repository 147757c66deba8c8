"""Real runs of a tiny model: what is kept, what is not done twice, and what becomes of a run that ends badly."""

import dataclasses
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest
from pyarrow import parquet

from harness.config import config
from harness.config.experiment import evaluations
from harness.records import record
from harness.records.events import Measured, PhaseStarted, StepLogged
from harness.records.record import EvaluationRecord, RunRecord
from harness.run import inputs, outcome, run, state
from harness.train import checkpoint

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def make(compose):
    """An experiment from overrides, ready to run."""
    return lambda *words: inputs.resolve(config.build(compose(*words)))


def ignore(event):
    pass


def look(experiment):
    """Every file of a run with the moment in which it was made."""
    return {path: path.stat().st_mtime_ns for path in experiment.folder.rglob("*") if path.is_file()}


def weights(experiment):
    """The files of the weights without their card, which says what is known of them by now."""
    inside = [path for path in look(experiment) if experiment.weights_folder in path.parents]
    return [path for path in inside if path.suffix != ".md"]


@dataclasses.dataclass
class Finished:
    """A run that several tests look at."""

    words: list[str]
    experiment: object
    result: RunRecord
    events: list


@pytest.fixture(scope="module")
def finished(make, shared_overrides):
    words = [*shared_overrides(), "method=lora", "train.eval_every=2"]
    experiment, events = make(*words), []
    return Finished(words, experiment, run.run(experiment, events.append), events)


def test_a_run_leaves_record_weights_and_evaluations(finished):
    experiment, result = finished.experiment, finished.result
    assert result.status == "ok"
    assert result == record.read(RunRecord, experiment.folder / "record.json")
    assert (result.recipe_id, result.seed, result.method) == (experiment.recipe_id, 0, "lora")
    assert len(weights(experiment)) >= 2
    scores = [record.read(EvaluationRecord, path) for path in experiment.folder.glob("evaluations/*.json")]
    assert [score.eval_id for score in scores] == [evaluation.eval_id for evaluation in evaluations(experiment)]
    assert scores[0].weights_from == result.current.started_at == result.current.weights_from
    table = parquet.read_table(record.evaluation_path(experiment.folder, scores[0].eval_id).with_suffix(".parquet"))
    assert {"item_id", "prompt_hash", "metric/nll", "num_tokens"} <= set(table.column_names)
    assert table.num_rows == scores[0].num_items > 0
    assert len(set(table["item_id"].to_pylist())) == table.num_rows
    nats, tokens = sum(table["metric/nll"].to_pylist()), sum(table["num_tokens"].to_pylist())
    assert scores[0].metrics["loss"].value == pytest.approx(nats / tokens)
    assert not list(experiment.folder.rglob(".*")), "temporary files are left"
    assert not (experiment.folder / "trainer").exists()


def test_a_record_holds_what_was_measured(finished):
    attempt = finished.result.current
    assert set(attempt.phases) == {"load", "train", "validate"}
    assert all(phase.seconds > 0 for phase in attempt.phases.values())
    assert attempt.peak_memory_bytes > 0
    training = attempt.training
    assert len(training.losses) == len(training.step_seconds) == len(training.gradient_norms) == 3
    assert training.tokens_per_second > 0
    assert all(real <= padded for real, padded in zip(training.real_tokens, training.padded_tokens, strict=True))
    assert [step for step, _ in training.validation] == [2]
    fingerprint = attempt.fingerprint
    assert fingerprint.trainable_parameters == fingerprint.expected_trainable_parameters > 0
    assert fingerprint.total_parameters > fingerprint.trainable_parameters
    assert fingerprint.saved_bytes >= sum(path.stat().st_size for path in weights(finished.experiment))
    assert attempt.data.train_rows + attempt.data.validation_rows == 64
    assert attempt.provenance["device"] in ("cpu", "cuda")
    assert finished.result.config["train"]["precision"] == "fp32"


def test_a_run_tells_what_it_is_doing(finished):
    phases = [event.name for event in finished.events if isinstance(event, PhaseStarted)]
    assert phases == ["load", "train", "validate", "train", "validate"], "the first look lies inside training"
    steps = [event for event in finished.events if isinstance(event, StepLogged)]
    assert [(event.done, event.total) for event in steps] == [(1, 3), (2, 3), (3, 3)]
    assert [event.loss for event in steps] == list(finished.result.training.losses)
    assert not any(isinstance(event, Measured) for event in finished.events)


def test_the_same_experiment_again_does_nothing(finished, make):
    before = look(finished.experiment)
    again = make(*finished.words, "tracking=wandb", "reports_dir=elsewhere")
    assert state.done(again)
    assert run.run(again, pytest.fail) == finished.result
    assert look(finished.experiment) == before


def test_a_result_that_is_no_success_is_made_again_only_when_it_is_said(make, tiny_overrides, finished):
    asked = make(*tiny_overrides, "method=lora")
    for status in ("oom", "diverged"):
        attempt = dataclasses.replace(finished.result.current, status=status, reason="so", weights_from=None)
        record.write(dataclasses.replace(finished.result, attempts=(attempt,)), asked.folder / "record.json")
        assert state.done(asked)
        assert not state.done(dataclasses.replace(asked, rerun=(status,)))
    assert make(*tiny_overrides, "method=lora", "rerun=[oom]").recipe_id == asked.recipe_id


def test_a_seed_is_another_run_of_the_same_recipe(finished, make):
    other = make(*finished.words, "seed=1")
    assert other.folder.parent == finished.experiment.folder.parent
    assert not state.done(other)


@pytest.fixture
def copied(finished, make, tmp_path):
    """The finished run in a folder of the test's own."""
    import shutil

    runs = shutil.copytree(finished.experiment.runs_dir, tmp_path / "runs")
    words = [*finished.words, f"runs_dir={runs}"]
    return dataclasses.replace(finished, words=words, experiment=make(*words))


def assert_only_evaluated(copied, asked, added):
    made = {path: moment for path, moment in look(copied.experiment).items() if path in weights(copied.experiment)}
    result = run.run(asked, ignore)
    assert result.status == "ok"
    assert {path: path.stat().st_mtime_ns for path in made} == made
    first, second = result.attempts
    assert first == copied.result.current
    assert second.started_at != first.started_at
    assert (second.training, second.fingerprint, second.weights_from) == (None, None, first.weights_from)
    for part in ("training", "fingerprint", "data", "peak_memory_bytes"):
        assert getattr(result.measured, part) == getattr(first, part) is not None
    assert "train" not in second.phases
    assert result.measured.phases["train"] == first.phases["train"]
    files = sorted(path.stem for path in asked.folder.glob("evaluations/*.json"))
    assert files == sorted(evaluation.eval_id for evaluation in {*evaluations(copied.experiment), *evaluations(asked)})
    scores = [record.read(EvaluationRecord, path) for path in asked.folder.glob("evaluations/*.json")]
    assert {score.weights_from for score in scores} == {first.started_at}
    assert len(files) == 1 + added
    assert state.done(asked)
    return scores


def test_more_held_out_rows_train_nothing(copied, make):
    assert_only_evaluated(copied, make(*copied.words, "eval.heldout_limit=3"), added=1)


def test_an_added_task_trains_nothing(copied, make):
    asked = make(*copied.words, "eval.tasks=[openbookqa]", "eval.limit=4")
    scores = assert_only_evaluated(copied, asked, added=1)
    task = next(score for score in scores if score.evaluation["task"] == "openbookqa")
    assert task.num_items == 4
    assert {"acc", "acc_norm"} <= set(task.metrics)
    assert task.provenance["task_versions"]


def test_restored_weights_score_as_they_did_after_training(copied):
    [path] = copied.experiment.folder.glob("evaluations/*.json")
    before = record.read(EvaluationRecord, path)
    path.unlink()
    assert run.run(copied.experiment, ignore).status == "ok"
    assert record.read(EvaluationRecord, path).metrics == before.metrics


def test_force_makes_another_attempt(copied, make):
    forced = make(*copied.words, "force=true")
    assert forced.recipe_id == copied.experiment.recipe_id
    assert not state.done(forced)
    made = copied.experiment.weights_folder.stat().st_ino
    result = run.run(forced, ignore)
    assert [attempt.status for attempt in result.attempts] == ["ok", "ok"]
    assert result.current.weights_from == result.current.started_at
    assert result.training.losses == copied.result.training.losses
    assert forced.weights_folder.stat().st_ino != made


def test_lost_weights_are_made_again(copied):
    import shutil

    shutil.rmtree(copied.experiment.weights_folder)
    assert not state.done(copied.experiment)
    assert run.run(copied.experiment, ignore).status == "ok"
    assert weights(copied.experiment)


@pytest.mark.parametrize("text", ["", '{"schema": 1, "rec', "[]"])
def test_a_damaged_record_is_set_aside_and_the_run_is_made_again(copied, text):
    path = copied.experiment.folder / "record.json"
    path.write_text(text)
    assert not state.done(copied.experiment)
    assert state.read(copied.experiment) is None
    assert path.read_text() == text, "one who only looks changes nothing"
    if text:
        return
    told = []
    assert run.run(copied.experiment, told.append).status == "ok"
    assert path.with_suffix(".json.damaged").read_text() == text
    assert f"{path}: not a record" in told[0].text and "set aside as record.json.damaged" in told[0].text
    assert len(record.read(RunRecord, path).attempts) == 1


def test_a_record_of_another_version_is_refused_and_left_alone(copied):
    path = copied.experiment.folder / "record.json"
    for change in ({"schema": 99}, {"invented_later": 1}):
        text = json.dumps({**json.loads(path.read_text()), **change})
        path.write_text(text)
        for ask in (state.done, lambda experiment: run.run(experiment, ignore)):
            with pytest.raises(ValueError, match=re.escape(f"{path}: ")):
                ask(copied.experiment)
        assert path.read_text() == text


def test_a_run_that_diverges_is_a_result_that_names_the_step(make, tiny_overrides):
    hot = make(*tiny_overrides, "method=full", "train.lr=1e30", "train.max_grad_norm=1e30", "train.warmup_steps=0")
    result = run.run(hot, ignore)
    assert result.status == "diverged"
    assert result.current.reason.startswith("step ")
    assert "loss" in result.current.reason
    assert state.done(hot), "a result is not made again"
    assert not weights(hot)
    assert run.run(hot, pytest.fail) == result


def test_a_value_that_the_model_refuses_costs_that_run(make, tiny_overrides):
    experiment = make(*tiny_overrides, "target=[nosuch]")
    result = run.run(experiment, ignore)
    assert result.status == "failed"
    assert result.current.reason.startswith("target=[nosuch]: it matches no")
    assert "(in phase load)" in result.current.reason
    assert "Traceback" in (experiment.folder / "log.txt").read_text()
    assert not state.done(experiment), "what failed is tried again"


def test_rows_that_are_all_too_long_are_said_to_be(make, tiny_overrides):
    result = run.run(make(*tiny_overrides, "train.max_length=3"), ignore)
    assert result.status == "failed"
    assert "train.max_length=3: every training row is longer" in result.current.reason


def test_a_skipped_run_is_a_record(make, tiny_overrides):
    experiment = make(*tiny_overrides)
    run.skip(experiment, "needs a GPU")
    result = state.read(experiment)
    assert (result.status, result.current.reason) == ("skipped", "needs a GPU")
    assert result.training is None


# --- the command, hit in the middle ---


def start(words: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "harness", "-m", *words]
    return subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )


def worker_in_training(sweep: subprocess.Popen, log: Path) -> psutil.Process:
    """The process that trains: the server's child that holds the run's log open, once it has begun."""
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline:
        assert sweep.poll() is None, sweep.communicate()
        for process in psutil.Process(sweep.pid).children(recursive=True):
            try:
                if Path(f"/proc/{process.pid}/fd/1").readlink() == log and process.cpu_times().user > 1:
                    return process
            except OSError:
                continue
        time.sleep(0.05)
    raise AssertionError("no run began")


def test_a_clock_that_jumps_changes_no_duration(make, tiny_overrides, monkeypatch):
    """Back by a thousand years between an attempt's beginning and its end."""
    experiment = make(*tiny_overrides, "method=lora", "seed=77")
    monkeypatch.setattr(outcome, "_now", lambda: "3026-01-01T00:00:00.000+00:00")
    run.fail(experiment, "no reason")
    assert 0 <= state.read(experiment).current.seconds < 60


def wait_for_steps(process: psutil.Process, seconds: float = 1.5) -> None:
    """Training has begun when the process has computed for a while; loading takes a third of a second."""
    deadline = time.monotonic() + 60
    while process.cpu_times().user < 1 + seconds and time.monotonic() < deadline:
        time.sleep(0.05)


def statuses(runs: Path) -> dict[str, RunRecord]:
    found = [record.read(RunRecord, path) for path in record.find_runs(runs)]
    return {one.method: one for one in found}


def nobody_left(session: int) -> bool:
    """Whether the command's processes are gone: they share its session."""
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        alive = [p for p in psutil.process_iter() if p.status() != psutil.STATUS_ZOMBIE and _session(p) == session]
        if not alive:
            return True
        time.sleep(0.1)
    return False


def _session(process: psutil.Process) -> int | None:
    try:
        return os.getsid(process.pid)
    except OSError:
        return None


LONG = ["train.max_steps=100000", "train.lr_scheduler_type=constant_with_warmup"]  # nobody waits for its end


def test_a_killed_run_fails_alone_and_an_interrupt_keeps_what_is_finished(make, tiny_overrides):
    words = [*tiny_overrides, "method=full", *LONG, "seed=0,1"]
    runs = Path(make(*tiny_overrides).runs_dir)
    first = make(*[word for word in words if not word.startswith("seed")])
    sweep = start(words)
    victim = worker_in_training(sweep, first.folder / "log.txt")
    wait_for_steps(victim)
    victim.kill()
    _interrupt_second(sweep, make(*words[:-1], "seed=1"))
    killed = record.read(RunRecord, first.folder / "record.json")
    assert killed.status == "failed"
    assert killed.current.reason.startswith("killed by SIGKILL (in phase train at ")
    assert (killed.current.ended_in, killed.current.killed_by) == ("train", signal.SIGKILL)
    assert statuses(runs)["base"].status == "ok"


def _interrupt_second(sweep: subprocess.Popen, second) -> None:
    """The others go on: when the next run trains, a Ctrl-C at the terminal reaches every process of the command."""
    victim = worker_in_training(sweep, second.folder / "log.txt")
    wait_for_steps(victim)
    os.killpg(sweep.pid, signal.SIGINT)
    _, err = sweep.communicate(timeout=60)
    assert sweep.returncode == 130
    assert "interrupted: what was finished is kept" in err
    assert "Traceback" not in err
    result = record.read(RunRecord, second.folder / "record.json")
    assert result.status == "failed"
    step = checkpoint.step_of(checkpoint.newest(checkpoint.folder(second.folder)))
    where = f"interrupted in phase train at {step} of 100000; can be resumed from step {step}"
    assert result.current.reason == where
    assert result.current.stopped == "training"
    assert result.current.interrupted
    assert nobody_left(sweep.pid)


def test_the_exit_code_tells_of_a_killed_run_and_the_same_command_makes_it_good(make, tiny_overrides, harness):
    words = [*tiny_overrides, "method=lora,full", "train.max_steps=600"]
    runs = Path(make(*tiny_overrides).runs_dir)
    lora = make(*tiny_overrides, "method=lora", "train.max_steps=600")
    sweep = start(words)
    victim = worker_in_training(sweep, lora.folder / "log.txt")
    victim.kill()
    _, err = sweep.communicate(timeout=200)
    assert sweep.returncode == 1, err
    found = statuses(runs)
    assert {name: one.status for name, one in found.items()} == {"base": "ok", "lora": "failed", "full": "ok"}
    assert "killed by SIGKILL" in found["lora"].current.reason
    assert "failed: killed by SIGKILL" in err
    kept = look(make(*tiny_overrides, "method=full", "train.max_steps=600"))

    again = harness("-m", *words)
    assert again.code == 0
    found = statuses(runs)
    assert {name: one.status for name, one in found.items()} == {"base": "ok", "lora": "ok", "full": "ok"}
    assert [attempt.status for attempt in found["lora"].attempts] == ["failed", "ok"]
    assert look(make(*tiny_overrides, "method=full", "train.max_steps=600")) == kept
    [question] = [json.loads(path.read_text()) for path in (runs / "sweeps").glob("*/sweep.json")]
    assert len(question["already_done"]) == 2


def test_two_sweeps_at_once_make_each_run_once(make, tiny_overrides):
    words = [*tiny_overrides, "method=lora", "seed=0,1"]
    sweeps = [start(words), start(words)]
    for sweep in sweeps:
        _, err = sweep.communicate(timeout=200)
        assert sweep.returncode == 0, err
    found = [record.read(RunRecord, path) for path in record.find_runs(Path(make(*tiny_overrides).runs_dir))]
    assert sorted((one.method, one.seed) for one in found) == [("base", 0), ("lora", 0), ("lora", 1)]
    assert [len(one.attempts) for one in found] == [1, 1, 1]
