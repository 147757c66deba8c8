"""The referee on runs of a Trainer: seeds that are not alike, and curves that only look as if they had gone wrong."""

import json
import random

import pytest
from test_review import TRAINER_ROWS, trainer_with, write_trainer
from test_review import reviewed as reviewed

from harness.review.__main__ import main


def of_seed(folder, name, change):
    """Change the state and the results of one run."""
    run = folder / name
    for pattern in ("checkpoint-*/trainer_state.json", "results_*.json", "adapter_config.json"):
        [path] = run.glob(pattern)
        content = json.loads(path.read_text())
        change(path.name.partition("_")[0], content)
        path.write_text(json.dumps(content))


def other_batch(part, content):
    if part == "trainer":
        content["train_batch_size"] = 16


def other_rate(part, content):
    if part == "trainer":
        for entry in content["log_history"]:
            entry |= {"learning_rate": 2 * entry["learning_rate"]} if "learning_rate" in entry else {}


def other_scale(part, content):
    if part == "adapter":
        content["lora_alpha"] = 128


def other_method(part, content):
    if part == "adapter":
        content["use_dora"] = False


UNLIKE = {
    "batch": (other_batch, "seeds of dora differ: train_batch_size: 8 (dora-seed0 and dora-seed2), 16 (dora-seed1)"),
    "rate": (other_rate, "seeds of dora differ: learning rate: 5e-4 (dora-seed0 and dora-seed2), 1e-3 (dora-seed1)"),
    "scale": (other_scale, "seeds of dora differ: scale: 2 (dora-seed0 and dora-seed2), 8 (dora-seed1)"),
    "method": (other_method, "seeds of dora differ: method: dora (dora-seed0 and dora-seed2), lora (dora-seed1)"),
}


@pytest.mark.parametrize("kind", UNLIKE)
def test_seeds_of_one_name_that_differ_beside_their_seed_are_named(kind, reviewed, tmp_path):
    change, expected = UNLIKE[kind]
    folder = write_trainer(tmp_path / "outputs")
    of_seed(folder, "dora-seed1", change)
    code, faults, found = reviewed(folder)
    assert code == 1
    assert "settings" in faults
    assert expected in [entry["text"] for entry in found["findings"]], found["findings"]


def test_a_task_that_some_seeds_lack_is_named(reviewed, tmp_path):
    def drop(part, content):
        if part == "results":
            content["results"] = {"piqa": content["results"].pop("arc")}
            content["configs"] = {"piqa": {}}

    folder = write_trainer(tmp_path / "outputs")
    of_seed(folder, "lora-seed2", drop)
    code, faults, found = reviewed(folder)
    assert (code, "seeds" in faults) == (1, True)
    texts = [entry["text"] for entry in found["findings"]]
    assert "1 of 3 seeds of lora have no score on arc/acc (lora-seed2), and it is left out" in texts
    assert "2 of 3 seeds of lora have no score on piqa/acc (lora-seed0 and lora-seed1), and it is left out" in texts


def test_folders_of_seeds_are_one_method(reviewed, tmp_path):
    """A folder of seeds alone, or one in each method's, is not as many methods of one seed."""
    folder = write_trainer(tmp_path / "outputs")
    for run in sorted(folder.iterdir()):
        method, _, seed = run.name.partition("-seed")
        (folder / method).mkdir(exist_ok=True)
        run.rename(folder / method / f"seed-{seed}")
    code, faults, found = reviewed(folder)
    assert (code, faults, found["rows"]) == (0, [], ["dora", "lora"])
    assert reviewed(folder / "lora")[2]["rows"] == ["lora"]


def full(name, parts):
    """Full fine-tuning has no adapter, and so no file that names its base."""
    if name == "dora":
        for entry in parts["state"]["log_history"]:
            entry |= {"learning_rate": entry["learning_rate"] * 2e-5 / 5e-4} if "learning_rate" in entry else {}


def test_full_fine_tuning_beside_adapters_is_clean(reviewed, tmp_path):
    folder = write_trainer(tmp_path / "outputs", change=full)
    for run in folder.glob("dora-*"):
        (run / "adapter_config.json").unlink()
        run.rename(folder / run.name.replace("dora", "full"))
    code, faults, found = reviewed(folder)
    assert (code, faults) == (0, []), found


def scattered(name, parts):
    """A curve of single batches, logged at each step: it falls, and its last batch is a hard one."""
    drawn = random.Random(name)
    rate = TRAINER_ROWS[name][1]
    parts["state"]["log_history"] = [
        {"step": i, "loss": (2.0 if i < 10 else 0.5) * drawn.uniform(0.5, 1.5), "learning_rate": rate * (1 - i / 100)}
        for i in range(99)
    ] + [{"step": 99, "loss": 0.9, "learning_rate": 0.01 * rate}]


def overfitted(name, parts):
    losses = [entry for entry in parts["state"]["log_history"] if "loss" in entry]
    for entry, loss in zip(losses, [2.0, 1.0, 0.5, 0.1, 0.02, 0.004, 0.001, 0.001, 0.003, 0.004], strict=True):
        entry["loss"] = loss


def stopped(name, parts):
    control = {"args": {"should_training_stop": True, "should_save": True}, "attributes": {}}
    parts["state"] |= {"global_step": 60, "stateful_callbacks": {"TrainerControl": control}}


def another_word(name, parts):
    parts["state"]["log_history"].append({"step": 100, "eval_latest_loss": 1.0, "eval_contest_accuracy": 0.5})


@pytest.mark.parametrize("change", [scattered, overfitted, stopped, another_word], ids=lambda change: change.__name__)
def test_a_run_that_went_well_raises_no_alarm(change, reviewed, tmp_path):
    seeds = (0,) if change is scattered else (0, 1, 2)
    _, faults, found = reviewed(write_trainer(tmp_path / "outputs", seeds=seeds, change=change))
    assert not {"diverged", "unfinished", "chosen-on-test"} & {*faults}, found


def vanished(parts):
    """A loss that is not a number, as transformers writes it: 0 beside a gradient that is none."""
    parts["state"]["log_history"].append({"step": 100, "loss": 0.0, "grad_norm": float("nan")})


def left(parts):
    parts["state"]["log_history"] += [{"step": 100 + i, "loss": 1.9} for i in range(3)]
    for entry in parts["state"]["log_history"][3:9]:
        entry["loss"] = 0.2


def killed(parts):
    control = {"args": {"should_training_stop": False}, "attributes": {}}
    parts["state"] |= {"global_step": 60, "stateful_callbacks": {"TrainerControl": control}}


@pytest.mark.parametrize(("edit", "check"), [(vanished, "diverged"), (left, "diverged"), (killed, "unfinished")])
def test_a_run_that_did_not_is_found(edit, check, reviewed, tmp_path):
    folder = tmp_path / "outputs"
    trainer_with(edit)(folder)
    assert check in reviewed(folder)[1]


def test_logs_of_lm_eval_alone_are_no_results_of_peft(tmp_path, capsys):
    (tmp_path / "results_2026-01-01T00-00-00.000000.json").write_text(json.dumps({"results": {}, "configs": {}}))
    assert main([str(tmp_path)]) == 2
    error = capsys.readouterr().err
    assert "none of its 1 JSON files is a result file of PEFT's method comparison" in error
    assert "harness report import-lm-eval FOLDER..." in error
