"""What a task draws at random is the same in every run, between its questions and their scores, and in lm-eval."""

import json
import random

import numpy as np
import pytest
import torch

from harness.evaluate import generated, tasks
from harness.records.settings import SamplingSpec

UTILS = """\
import random
import numpy
import torch
import datasets

LETTERS = ["a", "b", "c", "d"]
OWN = random.Random(3)


def shuffled(dataset):
    return dataset.map(lambda doc: {"c": random.sample(doc["c"], 4)})


def filled(dataset):
    order = [numpy.random.permutation(4) for _ in dataset]
    return datasets.Dataset.from_list([{**doc, "c": [doc["c"][i] for i in ns]} for doc, ns in zip(dataset, order)])


def by_torch(dataset):
    return datasets.Dataset.from_list([{**doc, "c": [doc["c"][i] for i in torch.randperm(4)]} for doc in dataset])


def by_its_own(dataset):
    return datasets.Dataset.from_list([{**doc, "c": OWN.sample(doc["c"], 4)} for doc in dataset])


def made_up(**_):
    rows = [{"q": str(random.random()), "c": random.sample(LETTERS, 4), "a": "a"} for _ in range(8)]
    return {"test": datasets.Dataset.from_list(rows)}


def asked(doc):
    return random.choice(["Say: ", "Tell: "]) + doc["q"]


def scored(doc, results):
    return {"acc": float(random.random() < 0.5)}
"""
RIGHT = {"output_type": "multiple_choice", "doc_to_choice": "{{c}}", "metric_list": [{"metric": "acc"}]}
WRITTEN = {
    "output_type": "generate_until", "repeats": 2, "metric_list": [{"metric": "exact_match"}],
    "generation_kwargs": {"until": ["\n\n"], "max_gen_toks": 6, "do_sample": True, "temperature": 1.0},
}  # fmt: skip
DRAWS = {
    "choices by map": {**RIGHT, "process_docs": "!function utils.shuffled"},
    "choices by numpy": {**RIGHT, "process_docs": "!function utils.filled"},
    "choices by torch": {**RIGHT, "process_docs": "!function utils.by_torch"},
    "choices by a generator of its own": {**RIGHT, "process_docs": "!function utils.by_its_own"},
    "rows": {**RIGHT, "custom_dataset": "!function utils.made_up"},
    "questions": {**RIGHT, "doc_to_text": "!function utils.asked"},
    "answers": WRITTEN,
    "scores": {
        **RIGHT, "process_results": "!function utils.scored",
        "metric_list": [{"metric": "acc", "aggregation": "mean", "higher_is_better": True}],
    },
}  # fmt: skip


@pytest.fixture
def drawing(tmp_path):
    """The folder of a task that draws as it is told."""
    (tmp_path / "utils.py").write_text(UTILS)
    rows = [{"q": f"Question {n}:", "c": ["a", "b", "c", "d"], "a": "a"} for n in range(8)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def made(**settings):
        config = {
            "task": "drawing", "dataset_path": "json",
            "dataset_kwargs": {"data_files": {"test": str(tmp_path / "rows.jsonl")}},
            "test_split": "test", "doc_to_text": "{{q}}", "doc_to_target": "a", **settings,
        }  # fmt: skip
        if "custom_dataset" in settings:
            del config["dataset_kwargs"]
        lines = [f"{key}: {value if '!function' in str(value) else json.dumps(value)}" for key, value in config.items()]
        (tmp_path / "drawing.yaml").write_text("\n".join(lines) + "\n")
        return str(tmp_path)

    return made


def seed_all(seed):
    random.seed(seed)
    np.random.seed(seed)
    torch.manual_seed(seed)


def states():
    return random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()


@pytest.mark.parametrize("name", sorted(DRAWS))
def test_every_run_is_asked_the_same_and_its_own_random_states_are_kept(name, drawing, tiny, evaluation):
    folder = drawing(**DRAWS[name])

    def scored(seed):
        seed_all(seed)
        before = states()
        task = tasks.load("drawing", "package", None, folder)
        metrics, columns, _ = tasks.score(*tiny, task, evaluation("drawing"), lambda *_: None)
        assert states() == before
        return metrics, columns

    assert scored(1) == scored(2)
    assert len(DRAWS) == 8


@pytest.mark.parametrize("name", [name for name in DRAWS if name.startswith("choices")])
def test_a_question_is_scored_as_it_was_asked(name, drawing):
    task = tasks.load("drawing", "package", None, drawing(**DRAWS[name]))["tasks"]["drawing"]
    first, again = list(task.eval_docs), list(task.eval_docs)
    assert first == again == list(task.test_docs())
    assert any(doc["c"] != ["a", "b", "c", "d"] for doc in first), "it was shuffled"


@pytest.mark.parametrize("name", ["choices by map", "rows", "answers"])
def test_what_is_drawn_is_what_lm_eval_draws(name, drawing, tiny, evaluation, hflm):
    from lm_eval.evaluator import simple_evaluate
    from lm_eval.tasks import TaskManager

    folder = drawing(**DRAWS[name])
    manager = TaskManager(include_defaults=False, include_path=folder)
    theirs = simple_evaluate(hflm(*tiny), tasks=["drawing"], task_manager=manager, limit=8)
    own = tasks.score_on(hflm(*tiny), tasks.load("drawing", "package", None, folder), evaluation("drawing"))
    samples = theirs["samples"]["drawing"]
    assert own[1]["item_id"] == [f"drawing:{one['doc_hash']}:{one['doc_id']}" for one in samples]
    if name == "answers":
        assert own[1]["answer"] == [one["resps"][0][0] for one in samples]
    else:
        assert own[0]["acc"].value == theirs["results"]["drawing"]["acc,none"]


def test_an_oracle_is_right_on_a_mirrors_gpqa(tmp_path, evaluation):
    """Its choices are shuffled each time that its documents are made."""
    from lm_eval.api.model import LM

    class Oracle(LM):
        def loglikelihood(self, requests):
            asked = [request.args for request in requests]
            return [(0.0 if f"{answer.strip()} right" in question else -9.0, True) for question, answer in asked]

        def loglikelihood_rolling(self, requests):
            raise NotImplementedError

        def generate_until(self, requests):
            raise NotImplementedError

    place = tmp_path / "Idavidrein" / "gpqa" / "gpqa_main"
    place.mkdir(parents=True)
    wrong = {f"Incorrect Answer {i}": str(i) for i in (1, 2, 3)}
    rows = [{"Question": f"{n}?", "Correct Answer": "right", **wrong} for n in range(30)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    task = tasks.load("gpqa_main_zeroshot", "path", str(tmp_path))
    metrics, columns, _ = tasks.score_on(Oracle(), task, evaluation("gpqa_main_zeroshot", limit=None))
    assert metrics["acc"].value == 1
    assert len(set(columns["target"])) == 4, "the right one is anywhere"


@pytest.mark.parametrize("name", ["gpqa_main_n_shot", "gpqa_main_zeroshot", "gpqa_main_cot_n_shot"])
def test_a_second_load_in_one_process_asks_what_the_first_asked(name, tmp_path):
    """The examples of GPQA are shuffled by a generator that its module holds for good."""
    place = tmp_path / "Idavidrein" / "gpqa" / "gpqa_main"
    place.mkdir(parents=True)
    wrong = {f"Incorrect Answer {i}": str(i) for i in (1, 2, 3)}
    rows = [{"Question": f"{n}?", "Correct Answer": "right", **wrong, "Explanation": "so"} for n in range(12)]
    (place / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))

    def asked():
        [task] = tasks.load(name, "path", str(tmp_path))["tasks"].values()
        return [task.doc_to_text(doc) for doc in task.eval_docs], [doc["answer"] for doc in task.fewshot_docs()]

    assert asked() == asked() == asked()


def test_sampled_answers_to_held_out_prompts_can_be_had_again(tiny, evaluation):
    model, tokenizer = tiny
    ids = tokenizer("Question: why? Answer: so.")["input_ids"]
    rows = [{"input_ids": ids, "completion_mask": [0] * 20 + [1] * (len(ids) - 20)}] * 3
    asked = evaluation("shop/test", kind="generation", sampling=SamplingSpec(temperature=1.0, max_new_tokens=8))

    def answers(seed):
        seed_all(seed)
        before = torch.get_rng_state().tolist()
        _, columns = generated.score(generated.Writer(model, tokenizer), rows, asked, lambda _: None)
        assert torch.get_rng_state().tolist() == before
        return columns["answer"]

    assert answers(1) == answers(2)
    assert len(set(answers(1))) > 1, "they are samples"
