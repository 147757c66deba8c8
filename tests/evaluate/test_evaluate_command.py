"""`python -m harness.evaluate`: what is there is scored, and nothing is ever trained."""

import dataclasses
import json
import re
import shutil
from pathlib import Path

import pytest

from harness.adapter import load
from harness.config import config
from harness.evaluate import __main__ as command
from harness.records import record
from harness.records.record import EvaluationRecord, RunRecord
from harness.run import inputs, run
from harness.sources import models

TEXT = ("eval.generation_rows=3", "eval.sampling.max_new_tokens=4", "eval.general_text_passages=2")


@pytest.fixture(scope="module")
def finished(compose, shared_overrides):
    """A LoRA run of the tiny model that was asked no task."""
    experiment = inputs.resolve(config.build(compose(*shared_overrides(), "method=lora", *TEXT)))
    assert run.run(experiment, lambda event: None).status == "ok"
    return experiment


def scores(folder):
    found = [record.read(EvaluationRecord, path) for path in sorted(folder.glob("evaluations/*.json"))]
    return {one.evaluation["task"]: one for one in found}


def weights(folder):
    return {file.name: (file.stat().st_mtime_ns, file.read_bytes()) for file in folder.rglob("*.safetensors")}


def test_a_task_that_is_added_is_all_that_is_done(finished, capsys):
    before, saved = record.read(RunRecord, finished.folder / "record.json"), weights(finished.weights_folder)
    heldout = scores(finished.folder)
    assert saved
    assert sorted(one.evaluation["kind"] for one in heldout.values()) == ["generation", "heldout", "text"]
    words = [str(finished.folder), "--tasks", "piqa", "eval.limit=3"]
    assert command.main(words) == 0
    assert "piqa" in capsys.readouterr().out
    after = record.read(RunRecord, finished.folder / "record.json")
    found = scores(finished.folder)
    assert set(found) == {*heldout, "piqa"}
    assert all(found[name] == heldout[name] for name in heldout)
    assert found["piqa"].num_items == 3
    assert found["piqa"].weights_from == before.current.started_at == after.current.weights_from
    assert after.training == before.training
    assert len(after.attempts) == len(before.attempts) + 1
    assert weights(finished.weights_folder) == saved
    assert command.main([*words, "--json"]) == 0
    [document] = json.loads(capsys.readouterr().out)
    assert (document["run"], document["status"]) == (str(finished.folder), "ok")
    [piqa] = document["evaluations"]
    assert piqa["task"] == "piqa"
    assert {name: metric["value"] for name, metric in piqa["record"]["metrics"].items()} == {
        name: metric.value for name, metric in found["piqa"].metrics.items()
    }
    log = (finished.folder / "log.txt").stat().st_size
    assert command.main([str(finished.folder.parents[1]), *words[1:]]) == 0  # the folder of all runs: there already
    assert (finished.folder / "log.txt").stat().st_size == log
    assert record.read(RunRecord, finished.folder / "record.json") == after


def test_a_run_is_scored_over_all_devices_where_that_is_asked_for(finished, tmp_path, capsys):
    """Which changes neither the run nor the score; on a processor there is nothing to spread over."""
    shutil.copytree(finished.folder, tmp_path / finished.recipe_id / finished.folder.name)
    there = tmp_path / finished.recipe_id / finished.folder.name
    assert command.main([str(there), "--tasks", "openbookqa", "eval.limit=3", "model.device_map=auto"]) == 0
    assert command.main([str(finished.folder), "--tasks", "openbookqa", "eval.limit=3"]) == 0
    assert scores(there)["openbookqa"].metrics == scores(finished.folder)["openbookqa"].metrics
    capsys.readouterr()
    assert command.main([str(there), "--tasks", "piqa", "model.device_map=disk"]) == 2
    assert "model.device_map=\"disk\": must be 'auto'" in capsys.readouterr().err


def test_an_adapter_in_a_pickle_is_refused_unread(finished, tmp_path, capsys):
    folder = Path(shutil.copytree(finished.folder, tmp_path / finished.recipe_id / finished.folder.name))
    for file in folder.glob("weights/*.safetensors"):
        file.unlink()
    (folder / "weights" / "adapter_model.bin").write_bytes(b"never read")
    said = f"{folder / 'weights'}: its weights are a pickle, adapter_model.bin, "
    with pytest.raises(ValueError, match=re.escape(said)):
        load.find(folder)
    with pytest.raises(ValueError, match=re.escape(said)):
        finished.method.restore(models.load(finished.model, {}), folder / "weights")
    assert command.main([str(folder), "--tasks", "piqa", "eval.limit=2"]) == 2
    assert said in capsys.readouterr().err


def test_a_run_without_weights_is_never_trained(finished, tmp_path):
    elsewhere = dataclasses.replace(finished, runs_dir=str(tmp_path))
    with pytest.raises(ValueError, match="no weights to evaluate"):
        run.evaluate(elsewhere, lambda event: None)
    assert not list(tmp_path.rglob("*.safetensors"))


def test_a_model_folder_is_scored_alone(tiny_model, tmp_path, capsys):
    words = [str(tiny_model), "--tasks", "piqa,openbookqa", "eval=smoke", "eval.limit=2", "--runs-dir", str(tmp_path)]
    assert command.main(words) == 0
    out = capsys.readouterr().out
    assert "piqa" in out and "acc_norm" in out
    [path] = record.find_runs(tmp_path)
    known = record.read(RunRecord, path)
    assert (known.method, known.status, len(known.attempts)) == ("base", "ok", 1)
    assert set(scores(path.parent)) == {"piqa", "openbookqa"}
    assert known.training is None
    assert command.main(words) == 0
    assert len(record.read(RunRecord, path).attempts) == 1


WRONG = [
    ("nothing-there --tasks piqa", "nothing-there: no run"),
    ("gpt2 --tasks piqa seed=1", "seed=1: only settings of the eval group"),
    (
        "gpt2 --tasks piqa eval.generation_rows=5 eval.limit=3",
        "eval.generation_rows=5: this command asks the tasks of --tasks",
    ),
    ("gpt2 --tasks piqa eval.limit=0", "eval.limit=0: must be greater"),
    ("gpt2 --tasks ,", "--tasks names none"),
    ("gpt2 --tasks piqa eval.tasks=[copa]", "eval.tasks=[copa]: this command asks"),
]


@pytest.mark.parametrize(("words", "message"), WRONG)
def test_what_is_wrong_is_said_in_one_line(words, message, capsys, tmp_path):
    assert command.main([*words.split(), "--runs-dir", str(tmp_path)]) == 2
    said = capsys.readouterr().err
    assert said.startswith(f"harness.evaluate: {message}")
    assert len(said.splitlines()) == 1


def test_an_adapter_is_told_from_a_model(tmp_path, capsys):
    (tmp_path / "adapter_config.json").write_text("{}")
    assert command.main([str(tmp_path), "--tasks", "piqa"]) == 2
    assert "its adapter_config.json names no peft_type" in capsys.readouterr().err


def test_the_examples_of_a_few_shot_score_are_named(tiny_model, tmp_path, capsys):
    words = [str(tiny_model), "--tasks", "piqa", "eval.num_fewshot=1", "eval.limit=2", "--runs-dir", str(tmp_path)]
    assert command.main([*words, "eval.retention_limit=2"]) == 0
    assert "1 examples of validation" in " ".join(capsys.readouterr().out.split())


def test_an_unknown_task_starts_nothing(tiny_model, capsys, tmp_path):
    assert command.main([str(tiny_model), "--tasks", "piqaa", "--runs-dir", str(tmp_path)]) == 2
    assert "no task 'piqaa'. Did you mean piqa" in capsys.readouterr().err
    assert not list(record.find_runs(tmp_path))
