"""What stays on disk is a choice, and what it takes is said and compared with what is free before anything starts."""

import dataclasses
import json
import os
import shutil
import signal
from collections import namedtuple
from pathlib import Path

import pytest

from harness.adapter.load import find
from harness.config import config
from harness.config.experiment import Sizes
from harness.records import record
from harness.records.events import Message, StepLogged
from harness.records.record import RunRecord
from harness.report.archive.container import allowed
from harness.run import inputs, run, state
from harness.sweep import checks, messages
from harness.sweep.planned_runs import PlannedRun, Wanted


@pytest.fixture(scope="module")
def make(compose):
    return lambda *words: inputs.resolve(config.build(compose(*words)))


def ignore(event):
    pass


def test_nothing_is_kept_once_it_is_evaluated(make, tiny_overrides):
    asked = make(*tiny_overrides, "method=lora", "keep=none")
    result = run.run(asked, ignore)
    assert result.status == "ok"
    assert sorted(path.name for path in asked.folder.iterdir() if path.is_dir()) == ["evaluations"]
    assert asked.recipe_id == make(*tiny_overrides, "method=lora").recipe_id
    assert state.done(asked)
    assert run.run(asked, pytest.fail) == result
    with pytest.raises(ValueError, match=r"no weights to evaluate \(keep=none removed them\); train them first"):
        run.evaluate(make(*tiny_overrides, "method=lora"), ignore)
    with pytest.raises(ValueError, match=r"it has no weights: they were not kept \(keep=none\)"):
        find(asked.folder)
    events = []
    more = make(*tiny_overrides, "method=lora", "keep=none", "eval.heldout_limit=3")
    again = run.run(more, events.append)
    assert Message("lora: keep=none removed its weights; they are trained again") in events
    assert len(again.attempts) == 2
    assert again.training.losses == result.training.losses


def test_a_run_that_keeps_nothing_is_done_wherever_its_records_and_items_are(make, tiny_overrides, tmp_path):
    """As many records as a study has may be carried to another machine, which makes the runs that are left."""
    asked = make(*tiny_overrides, "method=lora", "keep=none")
    made = run.run(asked, ignore)
    elsewhere = dataclasses.replace(asked, runs_dir=str(tmp_path / "elsewhere"))
    carried = [path for path in asked.folder.rglob("*") if allowed(f"runs/{path.relative_to(asked.runs_dir)}")]
    assert sorted(path.suffix for path in carried).count(".parquet") == len(list(asked.folder.rglob("*.parquet"))) > 0
    assert not state.done(elsewhere)
    for path in carried:
        there = elsewhere.folder / path.relative_to(asked.folder)
        there.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, there)
    assert state.done(elsewhere)
    assert run.run(elsewhere, pytest.fail) == made


def test_a_kept_checkpoint_is_the_end_and_nothing_goes_on_from_it(make, tiny_overrides):
    asked = make(*tiny_overrides, "method=lora", "keep=checkpoint")
    first = run.run(asked, ignore)
    final = asked.folder / "checkpoint.final"
    assert [path.name for path in final.iterdir()] == ["step-000000003.safetensors"]
    assert not (asked.folder / "checkpoint").exists()
    again = run.run(dataclasses.replace(asked, force=True), ignore)
    assert again.current.resumed_at_step is None
    assert again.training.losses == first.training.losses
    assert [path.name for path in final.iterdir()] == ["step-000000003.safetensors"]


def is_told_to_end_at_its_last_step(experiment, todo, emit):
    from harness.run import worker  # in the run's process alone

    def watched(event):
        emit(event)
        if isinstance(event, StepLogged) and event.done == event.total:
            os.kill(os.getpid(), signal.SIGTERM)

    worker.execute(experiment, todo, watched)


def test_a_checkpoint_is_kept_where_the_run_is_told_to_end_at_its_last_step(make, tiny_overrides, monkeypatch):
    """The weights are saved, and the next attempt only evaluates."""
    asked = make(*tiny_overrides, "method=lora", "keep=checkpoint")
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    with monkeypatch.context() as patched:
        patched.setattr(run, "WORK", "test_keep:is_told_to_end_at_its_last_step")
        first = run.run(asked, ignore)
    assert (first.status, first.current.interrupted, first.current.stopped) == ("failed", True, "evaluation")
    again = run.run(asked, ignore)
    assert (again.status, again.current.training) == ("ok", None)
    assert [path.name for path in (asked.folder / "checkpoint.final").iterdir()] == ["step-000000003.safetensors"]
    assert not (asked.folder / "checkpoint").exists()


def planned(make, words, number=3, keep="adapter"):
    experiment = make(*words, "method=lora", f"keep={keep}")
    one = PlannedRun(Wanted(("method=lora",)), experiment, Sizes(weights=10 * 2**20, checkpoint=30 * 2**20))
    return [one] * number


@pytest.mark.parametrize(
    ("keep", "stays", "most"),
    [("adapter", "30 MiB", "100 MiB"), ("checkpoint", "120 MiB", "190 MiB"), ("none", "0 bytes", "70 MiB")],
)
def test_a_sweep_says_what_it_will_write(make, tiny_overrides, monkeypatch, keep, stays, most):
    said = []
    monkeypatch.setattr(messages.board, "say", said.append)
    plan = planned(make, tiny_overrides, keep=keep)
    checks.check_writable(Path(plan[0].experiment.runs_dir))
    messages.runs(plan, plan)
    assert [line.split()[0] for line in said] == ["runs", "training", "evaluation"]
    assert said[0].startswith(f"runs        3; disk: {stays} kept (keep={keep}), at most {most} during training, ")


def test_what_does_not_fit_is_not_started(make, tiny_overrides, monkeypatch, tmp_path):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(checks.shutil, "disk_usage", lambda folder: usage(0, 0, 99 * 2**20))
    checks.check_room(planned(make, tiny_overrides, number=2), tmp_path)
    with pytest.raises(ValueError, match=r"will write up to 100 MiB, and 99 MiB are free in .*keep=none"):
        checks.check_room(planned(make, tiny_overrides, number=3), tmp_path)


def test_what_is_predicted_is_what_is_written(make, tiny_overrides):
    """Through the check that a sweep makes; headers and cards are beside the tensors."""
    experiment = make(*tiny_overrides, "method=lora", "keep=checkpoint")
    (checked,) = checks.check([PlannedRun(Wanted(("method=lora",)), experiment)], experiment.folder.parents[1])
    result = run.run(experiment, ignore)
    trained = 4 * result.measured.fingerprint.trainable_parameters
    assert checked.sizes == Sizes(weights=trained, checkpoint=3 * trained)
    (file,) = (experiment.folder / "checkpoint.final").iterdir()
    for predicted, path in ((trained, experiment.weights_folder / "adapter_model.safetensors"), (3 * trained, file)):
        assert predicted < path.stat().st_size < 1.3 * predicted + 50_000, path


@pytest.mark.parametrize("keep", ["everything", "null", "[adapter]"])
def test_another_word_is_refused(make, tiny_overrides, keep):
    with pytest.raises(ValueError, match="keep="):
        make(*tiny_overrides, f"keep={keep}")


def test_the_record_says_what_was_asked_for(make, tiny_overrides):
    asked = make(*tiny_overrides, "method=base", "keep=none")
    run.run(asked, ignore)
    known = record.read(RunRecord, asked.folder / "record.json")
    assert known.config["keep"] == "none"
    assert config.from_record(known).keep == "adapter"
    assert "keep" not in json.dumps(known.recipe)
