"""The model card and the name of the base in an adapter's configuration."""

import dataclasses
import json
import shutil

import pytest
import yaml

from harness.config import config
from harness.records.record import RunRecord, read, write
from harness.run import card

HUB = {
    "name": "llama-3.2-1b", "source": "hub", "hub_id": "meta-llama/Llama-3.2-1B", "revision": "a" * 40, "package": None,
    "file": None, "path": None, "licence": "llama3.2", "trust_remote_code": False,
    "content": f"hub:meta-llama/Llama-3.2-1B@{'a' * 40}", "architecture": None,
}  # fmt: skip


def run_of(folder) -> RunRecord:
    return read(RunRecord, folder / "record.json")


@pytest.mark.parametrize("name", ["lora", "qlora", "full", "prompt"])
def test_a_run_leaves_a_card_with_its_scores_and_no_path(made, tiny_model, name):
    text = (made[name] / "weights" / "README.md").read_text()
    record = run_of(made[name])
    for wanted in (
        record.recipe_id, record.config["model"]["content"], record.config["data"]["content"],
        record.current.data.content_sha256, "| file/validation | loss (lower is better) |", "licence: Apache-2.0",
    ):  # fmt: skip
        assert wanted in text
    assert str(tiny_model) not in text
    assert str(made[name].parent) not in text
    front = yaml.safe_load(text.split("---")[1])
    assert "base_model" not in front  # a local folder is no model of the Hub
    assert front["library_name"] == ("transformers" if name == "full" else "peft")


def test_a_base_from_the_hub_is_named_with_its_revision(made, tmp_path):
    folder = tmp_path / "seed-0"
    shutil.copytree(made["lora"], folder)
    record = run_of(folder)
    write(dataclasses.replace(record, config={**record.config, "model": HUB}), folder / "record.json")
    text = card.write(folder).read_text()
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "meta-llama/Llama-3.2-1B"
    assert f"revision: {'a' * 40}" in text
    card.name_base(folder / "weights", HUB)
    named = json.loads((folder / "weights" / "adapter_config.json").read_text())
    assert (named["base_model_name_or_path"], named["revision"]) == ("meta-llama/Llama-3.2-1B", "a" * 40)
    assert not (folder / "weights" / "README.md").exists()


def test_a_local_base_keeps_its_path_where_peft_looks_for_it(made, tiny_model):
    named = json.loads((made["lora"] / "weights" / "adapter_config.json").read_text())
    assert named["base_model_name_or_path"] == str(tiny_model)


def test_the_command_writes_it_again(made, adapter):
    path = made["lora"] / "weights" / "README.md"
    before = path.read_bytes()
    path.unlink()
    assert adapter("card", made["lora"]) == (0, f"card: {path}\n", "")
    assert path.read_bytes() == before


def test_a_damaged_evaluation_is_left_out_of_the_card(made, tmp_path):
    folder = tmp_path / "seed-0"
    shutil.copytree(made["lora"], folder)
    for path in folder.glob("evaluations/*.json"):
        path.write_text("{")
    assert "Not evaluated." in card.write(folder).read_text()


@pytest.mark.parametrize("name", ["lora", "full", "prompt", "base"])
def test_a_record_gives_its_experiment_back(made, name):
    record = run_of(made[name])
    experiment = config.from_record(record)
    assert experiment.recipe_id == record.recipe_id
    assert experiment.method.name == name
    assert experiment.folder == made[name]


def test_a_method_that_is_gone_is_named(made):
    record = dataclasses.replace(run_of(made["lora"]), method="gone")
    with pytest.raises(ValueError, match=r"there is no harness\.methods\.gone any more"):
        config.from_record(record)


def test_settings_of_another_version_are_named(made):
    record = run_of(made["lora"])
    changed = {**record.config, "method": {**record.config["method"], "rnak": 3}}
    with pytest.raises(ValueError, match=r"another version of this program: method.rnak=?.*no such setting"):
        config.from_record(dataclasses.replace(record, config=changed))
