"""The model card and the name of the base in an adapter's configuration."""

import dataclasses
import json
import re
import shutil

import pytest
import yaml
from cmarkgfm import github_flavored_markdown_to_html
from cmarkgfm.cmark import Options

from harness.adapter import combine
from harness.adapter.load import Trained
from harness.config import config
from harness.records.record import SCHEMA, EvaluationRecord, Metric, RunRecord, read, write
from harness.run import model_card

HUB = {
    "name": "llama-3.2-1b", "source": "hub", "hub_id": "meta-llama/Llama-3.2-1B", "revision": "a" * 40, "package": None,
    "file": None, "path": None, "license": "llama3.2", "trust_remote_code": False,
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
        record.measured.data.content_sha256, "| file/validation | loss (lower is better) |", "license: not stated",
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
    text = model_card.write(folder).read_text()
    assert yaml.safe_load(text.split("---")[1])["base_model"] == "meta-llama/Llama-3.2-1B"
    assert f"revision: {'a' * 40}" in text
    model_card.name_base(folder / "weights", HUB)
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
    assert "Not evaluated." in model_card.write(folder).read_text()


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


HOSTILE = (
    "<img src=x onerror=alert(1)> [a](http://evil.example) ![p](http://evil.example/p) | x | `code` www.evil.example "
    "me@evil.example\n# heading\n\x1b[31mred"
)


def test_no_text_of_a_record_does_anything_in_a_card(made, tmp_path):
    """Every text that a record holds, also the names of tasks and metrics, is replaced by a hostile one."""
    folder = tmp_path / "seed-0"
    shutil.copytree(made["lora"], folder)
    text = lambda value: HOSTILE if isinstance(value, str) else value  # noqa: E731
    given = run_of(folder)
    model = {**{key: text(value) for key, value in given.config["model"].items()}, "source": "hub"}
    data = {key: text(value) for key, value in given.config["data"].items()}
    attempt = dataclasses.replace(
        given.current,
        provenance={**given.current.provenance, "commit": HOSTILE, "versions": {"torch": HOSTILE}},
        data=dataclasses.replace(given.measured.data, content_sha256=HOSTILE),
    )
    hostile = dataclasses.replace(
        given, config={**given.config, "model": model, "data": data}, method=HOSTILE, recipe_id=HOSTILE,
        recipe={**given.recipe, "method": {"name": HOSTILE}}, attempts=(*given.attempts[:-1], attempt),
    )  # fmt: skip
    scores = [
        dataclasses.replace(one, evaluation={**one.evaluation, "task": HOSTILE}, metrics={HOSTILE: metric})
        for one in model_card.scores(folder, given)
        for metric in list(one.metrics.values())[:1]
    ]
    assert scores
    cards = [
        model_card.text(hostile, scores, "peft", "use"),
        combine._card([Trained(folder, hostile, None)], [1.0], {"x": HOSTILE}),
    ]
    for page in cards:
        front, _, body = page.removeprefix("---\n").partition("\n---\n")
        assert yaml.safe_load(front)["base_model"] == HOSTILE
        tags = set(re.findall(r"<(\w+)", github_flavored_markdown_to_html(body, options=Options.CMARK_OPT_UNSAFE)))
        assert tags <= {"h1", "h2", "p", "ul", "li", "pre", "code", "table", "thead", "tbody", "tr", "th", "td"}
        assert all(sign.isprintable() or sign == "\n" for sign in page)
        assert len(re.findall(r"^#+ ", body, re.MULTILINE)) == page.count("\n## ") + 1


def test_scores_on_data_sets_of_the_hub_lie_beside_the_card_as_the_hub_reads_them(made, tmp_path):
    from huggingface_hub import parse_eval_result_entries

    folder = tmp_path / "seed-0"
    shutil.copytree(made["lora"], folder)
    given = run_of(folder)
    sets = {"arc_easy": "allenai/ai2_arc:ARC-Easy", "hellaswag": "Rowan/hellaswag", "mine": "json"}
    for number, (task, dataset) in enumerate(sets.items()):
        evaluation = {"kind": "lm_eval", "task": task, "role": "target", "limit": None if number else 50}
        score = EvaluationRecord(
            schema=SCHEMA, recipe_id=given.recipe_id, seed=0, eval_id=f"0000000{number}", evaluation=evaluation,
            metrics={"acc": Metric(value=0.25 + number / 4, stderr=None, higher_is_better=True)}, num_items=50,
            num_tokens=None, num_fewshot=0, seconds=1.0, weights_from=given.current.weights_from,
            provenance={"datasets": {task: dataset}, "lm_eval": "0.4.13"},
        )  # fmt: skip
        write(score, folder / "evaluations" / f"0000000{number}.json")
    model_card.write(folder)
    found = parse_eval_result_entries(yaml.safe_load((folder / "weights" / model_card.EVAL_RESULTS).read_text()))
    assert [(one.dataset_id, one.task_id, one.value) for one in found] == [
        ("allenai/ai2_arc", "ARC-Easy", 0.25), ("Rowan/hellaswag", "hellaswag", 0.5),
    ]  # fmt: skip
    assert found[0].notes == "acc, 0-shot, 50 items (the first), lm-eval 0.4.13"
    assert found[1].notes == "acc, 0-shot, 50 items, lm-eval 0.4.13"
