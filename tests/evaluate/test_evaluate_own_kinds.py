"""Tasks of one's own of every kind that lm-eval takes: the same scores as its own, or one sentence."""

import json

import pytest
import yaml

from harness.evaluate import tasks
from harness.records import items

UTILS = """\
import datasets
import numpy
import torch
from lm_eval.api.task import ConfigurableTask

SETTINGS = {settings}


def made_up(**_):
    rows = [{{"q": f"Made up {{n}}", "a": n % 2, "t": ["no", "yes"][n % 2]}} for n in range(6)]
    return {{"test": datasets.Dataset.from_list(rows)}}


def by_numpy(doc, results):
    nats = numpy.array([result[0] for result in results])
    return {{
        "acc": numpy.argmax(nats) == doc["a"], "nats": numpy.float32(nats[doc["a"]]), "choices": numpy.int64(len(nats)),
        "probability": torch.tensor(nats).softmax(0)[doc["a"]],
    }}


class Mine(ConfigurableTask):
    def __init__(self, config=None):
        super().__init__(config={{**SETTINGS, "task": "mine"}})
"""
SCALARS = ("acc", "nats", "choices", "probability")


@pytest.fixture
def own(tmp_path):
    """The folder of these tasks."""
    rows = [{"q": f"Question {n}", "a": n % 2, "t": ["no", "yes"][n % 2]} for n in range(6)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    read = {"dataset_path": "json", "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}}}
    plain = {"test_split": "test", "doc_to_text": "{{q}}", "metadata": {"version": 1}}
    choice = {
        **plain, "output_type": "multiple_choice", "doc_to_choice": ["no", "yes"], "doc_to_target": "a",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    }  # fmt: skip
    whole = {"output_type": "loglikelihood_rolling", "doc_to_text": "", "doc_to_target": "{{q}}"}
    written = {"output_type": "generate_until", "doc_to_target": "{{t}}", "generation_kwargs": {"max_gen_toks": 4}}
    scalars = [{"metric": name, "aggregation": "mean", "higher_is_better": True} for name in SCALARS]
    both = {"aggregate_metric_list": [{"metric": "acc", "weight_by_size": True}]}
    made = {
        "file": {**read, **choice},
        "whole": {**read, **plain, **whole, "metric_list": [{"metric": "bits_per_byte"}]},
        "written": {**read, **plain, **written, "metric_list": [{"metric": "exact_match"}]},
        "made": {**choice, "custom_dataset": "!function utils.made_up"},
        "numpy": {**read, **choice, "process_results": "!function utils.by_numpy", "metric_list": scalars},
        "mine": {"class": "!function utils.Mine"},
    }
    groups = {
        "inside": {"task": [{"task": "first", **read, **choice}, "file"], **both},
        "mixed": {"task": ["file", "whole", "written"], **both},
        "unscored": {"task": ["file", "whole", {"group": "deeper", "task": ["written"]}]},
        "wrong": {"task": ["file", "nosuch"], **both},
    }
    for name, config in [
        *((n, {"task": n, **c}) for n, c in made.items()),
        *((n, {"group": n, **c}) for n, c in groups.items()),
    ]:
        text = yaml.safe_dump(config, sort_keys=False).replace("'!function utils.", "!function utils.")
        text = "\n".join(line.removesuffix("'") if "!function" in line else line for line in text.splitlines())
        (tmp_path / f"{name}.yaml").write_text(text + "\n")
    (tmp_path / "utils.py").write_text(UTILS.format(settings={**read, **choice}))
    return str(tmp_path)


@pytest.mark.parametrize("name", ["file", "whole", "written", "made", "numpy", "mine", "inside", "mixed"])
def test_every_kind_of_task_scores_as_in_lm_eval_and_its_items_are_written(name, own, tiny, evaluation, hflm, tmp_path):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager
    from pyarrow import parquet

    manager = TaskManager(include_defaults=False, include_path=own)
    theirs = simple_evaluate(hflm(*tiny), tasks=[name], task_manager=manager)
    task = tasks.load(name, "package", None, own)
    metrics, columns, _ = tasks.score(*tiny, task, evaluation(name, limit=None), lambda *_: None)
    expected = {
        key.removesuffix(",none"): value for key, value in theirs["results"][name].items() if key.endswith(",none")
    }
    scores = {key: float(value) for key, value in expected.items() if not key.endswith("_stderr")}
    assert scores
    assert {key: metrics[key].value for key in scores} == pytest.approx(scores, rel=1e-5)
    items.write(columns, tmp_path / "items.parquet")
    assert parquet.read_table(tmp_path / "items.parquet").num_rows == sum(map(len, theirs["samples"].values()))


def test_what_a_function_returns_as_a_scalar_of_a_library_is_an_outcome_of_each_item(own, tiny, evaluation):
    task = tasks.load("numpy", "package", None, own)
    metrics, columns, _ = tasks.score(*tiny, task, evaluation("numpy", limit=None), lambda *_: None)
    for name in SCALARS:
        values = columns[f"metric/{name}"]
        assert all(type(value) is float for value in values)
        assert metrics[name].value == pytest.approx(sum(values) / 6)


@pytest.mark.parametrize(
    ("name", "source", "message"),
    [
        (
            "unscored",
            "package",
            r"^eval\.tasks=unscored is a group without a score .* its tasks, file, whole, written$",
        ),
        (
            "openllm",
            "package",
            r"^eval\.tasks=openllm is a group without a score .* its tasks, arc_challenge, hellaswag",
        ),
        ("wrong", "package", r"^eval\.tasks=wrong: group wrong names 'nosuch', which is no task$"),
        (
            "squadv2",
            "package",
            r"^eval\.tasks=squadv2: squadv2 is a Python class .*: use eval\.source=hub, not package$",
        ),
        ("squadv2", "path", r"^eval\.tasks=squadv2: squadv2 is a Python class .*: use eval\.source=hub, not path$"),
    ],
)
def test_what_cannot_be_scored_is_said_before_anything_is_asked(name, source, message, own):
    with pytest.raises(ValueError, match=message):
        tasks.load(name, source, own, own)


def test_a_limit_for_a_group_without_a_score_is_refused(own):
    with pytest.raises(ValueError, match=r"^eval\.task_limits=unscored is a group without a score"):
        tasks.check_name("unscored", "eval.task_limits", own)
