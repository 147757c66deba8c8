"""`harness report verify --retrain`: the cheapest run of an archive, trained again and compared."""

import dataclasses
import os

import pytest
from conftest import BASE, DORA, IA3, LORA, attempt, build

from harness.records import record
from harness.report.archive import verify
from harness.report.commands import run
from harness.report.data.load import load


def run_of(kind, seed=0, **provenance):
    made = attempt(kind, seed)
    made = dataclasses.replace(made, provenance={**made.provenance, **provenance})
    return record.RunRecord(
        schema=record.SCHEMA, recipe_id="0123abcd", seed=seed, method=kind.name, recipe={}, config={}, attempts=(made,)
    )


def with_losses(run, change):
    training = run.current.training
    training = dataclasses.replace(training, losses=tuple(change(training.losses)))
    return dataclasses.replace(run, attempts=(dataclasses.replace(run.current, training=training),))


def test_the_cheapest_run_is_the_one_with_the_fewest_seconds_of_training(tmp_path):
    loaded = load([build(tmp_path / "runs")], "methods")
    row = verify.cheapest(loaded)
    seconds = {
        (one.recipe_id, one.seed): one.current.training.train_seconds
        for one in loaded.rows
        if one.status == "ok" and one.current.training
    }
    assert len(seconds) >= 4
    assert seconds[row.recipe_id, row.seed] == min(seconds.values())


def test_the_command_is_the_cell_with_its_own_folders_and_without_test_data(tmp_path):
    row = verify.cheapest(load([build(tmp_path / "runs")], "methods"))
    cell = dataclasses.replace(row.cell, overrides=("method=lora", "seed=1", "runs_dir=x", "eval.test=always"))
    words = verify.retrain_words(dataclasses.replace(row, cell=cell), tmp_path)
    assert words[:2] == ["method=lora", "seed=1"]
    assert [word for word in words if word.startswith(("runs_dir", "eval.test"))] == [
        "eval.test=never",
        f"runs_dir={tmp_path}/runs",
    ]
    named = dataclasses.replace(cell, overrides=("sweep=folklore", "method=lora", "lr_scale=3", "seed=1"))
    of_named = verify.retrain_words(dataclasses.replace(row, cell=named), tmp_path)
    assert of_named[:3] == ["method=lora", "lr_scale=3", "seed=1"]  # the question would run every cell of it
    hidden = dataclasses.replace(cell, overrides=("method=lora", "data.file=path-1"))
    with pytest.raises(ValueError, match=r"data\.file=path-1"):
        verify.retrain_words(dataclasses.replace(row, cell=hidden), tmp_path)


@pytest.mark.parametrize(
    "word",
    [
        "model.trust_remote_code=true", "+model.trust_remote_code=True", "eval.unsafe_code=true",
        "eval.include_path=/x", "hydra.launcher.setup=[evil]", "hydra/launcher=slurm",
        "hydra.searchpath=[file:///x]", "~hydra.callbacks",
        "method._target_=evil.M", "+method={_target_: evil.M}", "--config-dir=/x", "-m", "--help", "evil",
        "hydra.run.dir=/etc",
    ],
)  # fmt: skip
def test_no_word_of_an_archive_runs_code(word, tmp_path):
    row = verify.cheapest(load([build(tmp_path / "runs")], "methods"))
    cell = dataclasses.replace(row.cell, overrides=("method=lora", word))
    with pytest.raises(ValueError, match="may run code") as refused:
        verify.retrain_words(dataclasses.replace(row, cell=cell), tmp_path)
    assert word in str(refused.value)


def test_on_the_same_machine_losses_are_equal_to_the_bit():
    run = run_of(LORA)
    assert verify.retrained_differences(run, run_of(LORA))[0] == []
    assert "to the bit" in verify.retrained_differences(run, run)[1]
    other = with_losses(run, lambda losses: [*losses[:6], losses[6] + 1e-6, *losses[7:]])
    [line] = verify.retrained_differences(run, other)[0]
    assert line.startswith("loss of step 7: ")


@pytest.mark.parametrize("key", ["device_name", "threads", "python", "versions", "num_processes"])
def test_elsewhere_losses_are_equal_within_the_stated_tolerance(key):
    run, elsewhere = run_of(LORA), run_of(LORA, **{key: "other"})
    close = with_losses(elsewhere, lambda losses: [loss * 1.015 for loss in losses])
    lines, how = verify.retrained_differences(run, close)
    assert lines == []
    assert "within 2%" in how
    assert key.replace("_", " ") in how
    far = with_losses(elsewhere, lambda losses: [loss * 1.03 for loss in losses])
    assert [line.partition(":")[0] for line in verify.retrained_differences(run, far)[0]] == ["first loss", "mean loss"]


@pytest.mark.parametrize(
    ("given", "recorded", "threads"),
    [
        (None, {"device": "cpu", "threads": 1}, "1"),
        (None, {"device": "cpu", "threads": 10_000}, str(len(os.sched_getaffinity(0)))),
        ("3", {"device": "cpu", "threads": 1}, "3"),
        (None, {"device": "cuda", "threads": 1}, None),
        (None, {"device": "cpu", "threads": None}, None),
    ],
)
def test_a_trial_is_trained_again_with_its_number_of_threads(given, recorded, threads, tmp_path, monkeypatch):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    row = verify.cheapest(load([build(tmp_path / "runs")], "methods"))
    row = dataclasses.replace(row, record=run_of(LORA, **recorded))
    assert verify.retrain_environment(row).get("OMP_NUM_THREADS") == threads


def test_a_run_of_another_length_or_without_training_is_said():
    run = run_of(DORA)
    short = with_losses(run, lambda losses: losses[:-1])
    assert "59 steps here, 60 in the record" in verify.retrained_differences(run, short)[0][0]
    assert verify.retrained_differences(run, run_of(BASE))[0]
    assert verify.retrained_differences(run_of(IA3), run_of(IA3))[0] == []


def test_the_cheapest_run_of_a_real_sweep_is_trained_again(harness, tiny_overrides, tmp_path, capsys):
    done = harness("-m", "method=lora,ia3", "seed=0", *tiny_overrides)
    assert done.code == 0, done.err
    [name] = [path.name for path in (tmp_path / "runs" / "sweeps").iterdir()]
    assert run("pack", [name, "--runs", str(tmp_path / "runs"), "--out", str(tmp_path / "report")]) == 0
    assert run("verify", [str(tmp_path / "report"), "--retrain"]) == 0
    out = capsys.readouterr().out
    assert "all equal" in out
    assert "losses to the bit: processor and libraries are those of the record: equal" in out
