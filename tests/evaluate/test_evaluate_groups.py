"""A group of tasks: its score, its chance level, its graded outcomes and its items weigh its tasks alike."""

import hashlib
import json
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from lm_eval.api.model import LM

from harness.evaluate import tasks
from harness.records import items, lm_eval_items
from harness.report.data.items import ScoredEvaluation, outcomes_of

SIZES = {"two": (6, 2), "four": (18, 4)}  # items, choices
ACC = {"aggregation": "mean", "higher_is_better": True}
WEIGHTS = [(True, True), (True, False), (False, True), (False, False)]  # of acc and acc_norm: by size


class Fixed(LM):
    """Its likelihoods are those of a hash of the texts."""

    def loglikelihood(self, requests):
        return [(-1 - hashlib.sha256(repr(one.args).encode()).digest()[1] / 64, False) for one in requests]

    def loglikelihood_rolling(self, requests):
        raise NotImplementedError

    def generate_until(self, requests):
        raise NotImplementedError


@pytest.fixture
def folder(tmp_path):
    """Writes a group over two tasks that differ in size and in choices, one of them in a group without a score."""

    def made(members=("two", {"group": "inside", "task": ["four"]}), metrics=(), **changes):
        for name, (number, choices) in SIZES.items():
            rows = [{"q": f"{name} {n}:", "c": [f"{'x' * (i + 1)}{i}" for i in range(choices)]} for n in range(number)]
            rows = [{**row, "a": n % choices} for n, row in enumerate(rows)]
            (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
            config = {
                "task": name, "dataset_path": "json", "test_split": "test", "output_type": "multiple_choice",
                "dataset_kwargs": {"data_files": {"test": str(tmp_path / f"{name}.jsonl")}},
                "doc_to_text": "{{q}}", "doc_to_choice": "{{c}}", "doc_to_target": "a",
                "metric_list": [{"metric": "acc", **ACC}, {"metric": "acc_norm", **ACC}],
            }  # fmt: skip
            (tmp_path / f"{name}.yaml").write_text(yaml.safe_dump({**config, **changes.get(name, {})}))
        group = {"group": "both", "task": list(members), "aggregate_metric_list": list(metrics)}
        (tmp_path / "both.yaml").write_text(yaml.safe_dump(group))
        return str(tmp_path)

    return made


def mean_of(columns, name, values, by_size):
    """The mean over the items, or over the tasks, by enumeration."""
    parts = [[v for v, task in zip(values, columns["task"], strict=True) if task == leaf] for leaf in SIZES]
    return np.mean(np.concatenate(parts)) if by_size else np.mean([np.mean(part) for part in parts])


def scored(record, columns, tmp_path):
    items.write(columns, tmp_path / "items.parquet")
    evaluation = {"task": "both", "kind": "lm_eval", "role": "target"}
    whole = SimpleNamespace(metrics=record, num_items=len(columns["item_id"]), evaluation=evaluation)
    return ScoredEvaluation(whole, tmp_path / "items.parquet", "items")


@pytest.mark.parametrize("by_size", WEIGHTS, ids=str)
def test_everything_of_a_group_weighs_its_tasks_as_its_score_does(by_size, folder, evaluation, tmp_path):
    of_metric = dict(zip(("acc", "acc_norm"), by_size, strict=True))
    place = folder(metrics=[{"metric": name, "weight_by_size": one} for name, one in of_metric.items()])
    task = tasks.load("both", "package", None, place)
    metrics, columns, _ = tasks.score_on(Fixed(), task, evaluation("both", limit=None))
    guessed = [1 / len(nats) for nats in columns["loglikelihoods"]]
    checked = 0
    for name, metric in metrics.items():
        by = of_metric["acc_norm" if name.endswith("_norm") else "acc"]
        level = [1 - share for share in guessed] if name.startswith("brier") else guessed
        assert metric.value == pytest.approx(mean_of(columns, name, columns[f"metric/{name}"], by)), name
        assert metric.chance == pytest.approx(mean_of(columns, name, level, by)), name
        assert np.mean(outcomes_of(scored(metrics, columns, tmp_path), name)) == pytest.approx(metric.value), name
        parts = [
            [v for v, leaf in zip(columns[f"metric/{name}"], columns["task"], strict=True) if leaf == one]
            for one in SIZES
        ]
        if not by:  # the tasks' items are drawn apart
            expected = np.sqrt(sum(np.var(part, ddof=1) / len(part) for part in parts)) / 2
            assert metric.stderr == pytest.approx(expected, rel=1e-3), name
        checked += 1
    assert checked == 6
    assert metrics["acc"].chance == pytest.approx((6 / 2 + 18 / 4) / 24 if by_size[0] else (1 / 2 + 1 / 4) / 2)


@pytest.mark.parametrize("by_size", WEIGHTS, ids=str)
def test_the_items_of_a_log_tell_how_its_group_weighs_them(by_size, folder, evaluation):
    of_metric = dict(zip(("acc", "acc_norm"), by_size, strict=True))
    place = folder(metrics=[{"metric": name, "weight_by_size": one} for name, one in of_metric.items()])
    task = tasks.load("both", "package", None, place)
    metrics, columns, _ = tasks.score_on(Fixed(), task, evaluation("both", limit=None))
    result = {"results": {"both": {f"{name},none": metrics[name].value for name in of_metric}}}
    assert lm_eval_items.means_over_tasks(result, "both", columns) == [k for k, one in of_metric.items() if not one]


@pytest.mark.parametrize("inside", [False, True])
def test_a_metric_of_opposite_directions_has_none_in_the_group(inside, folder, evaluation):
    """lm-eval says null of it, and nothing at all where the tasks stand in a group inside."""
    opposite = {"metric_list": [{"metric": "acc", **ACC}, {"metric": "acc_norm", **ACC, "higher_is_better": False}]}
    members = [{"group": "inside", "task": ["two", "four"]}] if inside else ["two", "four"]
    place = folder(members, [{"metric": "acc"}, {"metric": "acc_norm"}], four=opposite)
    task = tasks.load("both", "package", None, place)
    metrics, columns, _ = tasks.score_on(Fixed(), task, evaluation("both", limit=None))
    assert "acc_norm" not in metrics
    assert metrics["acc"].higher_is_better is True
    assert "metric/acc_norm" in columns, "each task has its own"
    place = folder(members, [{"metric": "acc_norm"}], four=opposite)
    with pytest.raises(ValueError, match=r"^eval\.tasks=both: a higher acc_norm is better .* tasks, two, four$"):
        tasks.load("both", "package", None, place)


@pytest.mark.parametrize("inside", [False, True])
def test_the_direction_of_a_groups_metric_is_that_of_its_tasks(inside, folder, evaluation):
    lower = {"metric_list": [{"metric": "acc", **ACC}, {"metric": "acc_norm", **ACC, "higher_is_better": False}]}
    members = [{"group": "inside", "task": ["two", "four"]}] if inside else ["two", "four"]
    place = folder(members, [{"metric": "acc_norm"}], two=lower, four=lower)
    task = tasks.load("both", "package", None, place)
    metrics, _, _ = tasks.score_on(Fixed(), task, evaluation("both", limit=None))
    assert metrics["acc_norm"].higher_is_better is False


@pytest.mark.parametrize(
    ("delimiter", "choices", "chat", "prefix"),
    [
        (" ", ["a", "bcde"], False, None),
        (" ", ["a", "bcde"], True, None),
        (" ", ["a", "bcde"], True, "So:"),
        ("", [" a", " bcde"], False, None),
        ("", ["a", "bcde"], False, None),
        ("\n", ["a", "bcde"], False, None),
        (" ", [" a", " bcde"], True, None),
        (" ", [" a", " bcde"], True, "So: "),
    ],
)
def test_a_choice_is_as_long_as_lm_eval_counts_it(delimiter, choices, chat, prefix, folder, evaluation):
    """The length that normalizes a choice is without what stands before it, and with a space of its own."""

    class Chatting(Fixed):
        tokenizer_name = "chatting"

        def chat_template(self, name=False):
            return "plain"

        def apply_chat_template(self, history, add_generation_prompt=True):
            return "".join(turn["content"] for turn in history)

        def loglikelihood(self, requests):
            return [(-1.0 * len(one.args[1].strip()) - 0.1, False) for one in requests]

    changes = {"target_delimiter": delimiter, "doc_to_choice": choices, **({"gen_prefix": prefix} if prefix else {})}
    task = tasks.load("two", "package", None, folder(two=changes))
    _, columns, _ = tasks.score_on(Chatting(), task, evaluation("two", limit=None, chat_template=chat))
    lengths = np.array([len(choice) for choice in choices])
    for nats, right, share in zip(
        columns["loglikelihoods"], columns["target_index"], columns["metric/p_right_norm"], strict=True
    ):
        scaled = np.array(nats) / lengths * lengths.mean()
        assert share == pytest.approx(np.exp(scaled[right]) / np.exp(scaled).sum())
