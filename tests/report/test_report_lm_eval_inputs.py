"""Logs of lm-eval as people have them: odd texts, names and scores, of versions that say less. Written by hand here."""

import json
from pathlib import Path

import pytest

from harness.records.record import EvaluationRecord, RunRecord, find_runs, read
from harness.report.__main__ import main
from harness.report.data.lm_eval_import import SEED_PATTERN, Question, as_question, named, untouched, write_records
from harness.report.data.lm_eval_logs import Log, find_logs

DATE = "2024-08-01T12-34-56.789012"


def choice(number, is_right, question="Which?", **changes):
    """Return a sample of three choices as lm-eval writes it since 0.4.6."""
    nats = [-1.0, -2.0, -2.5] if is_right else [-2.0, -1.0, -2.5]
    answers = [[str(value), "False"] for value in nats]
    return {
        "doc_id": number,
        "doc": {"question": f"{question} {number}"},
        "target": "0",
        "arguments": {f"gen_args_{i}": {"arg_0": f"{question} {number}", "arg_1": f" c{i}"} for i in range(3)},
        "resps": [[answer] for answer in answers],
        "filtered_resps": answers,
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"d{number}",
        "prompt_hash": f"p{number}",
        "target_hash": f"t{number}",
        "acc": float(is_right),
        **changes,
    }


@pytest.fixture
def log(tmp_path):
    """Write the log of a model with samples, and return its folder."""

    def write(arguments, samples=None, score=0.5, task="quiz", **changes):
        folder = tmp_path / f"log-{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        samples = [choice(number, number % 2 == 0) for number in range(12)] if samples is None else samples
        results = {
            "results": {task: {"alias": task, "acc,none": score, "acc_stderr,none": 0.1}},
            "configs": {task: {"output_type": "multiple_choice", "metric_list": [{"metric": "acc"}]}},
            "versions": {task: 1.0},
            "n-shot": {task: 0},
            "config": {"model_args": arguments},
            "date": 1.0,
            **changes,
        }
        (folder / f"results_{DATE}.json").write_text(json.dumps(results))
        lines = "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        (folder / f"samples_{task}_{DATE}.jsonl").write_text(lines, encoding="utf-8")
        return folder

    return write


@pytest.fixture
def imported(tmp_path):
    """Import folders, each with its name or None, and return the runs and the scores by method."""

    def run(*folders, base=None):
        logs = [(name, entry) for name, folder in folders for entry in find_logs(folder)]
        models = named(logs, SEED_PATTERN)
        runs = tmp_path / "runs"
        write_records(models, as_question(models, Question(name="q", base=base)), runs)
        records = [(path.parent, read(RunRecord, path)) for path in find_runs(runs)]
        scores = {
            record.method: read(EvaluationRecord, file).metrics
            for folder, record in records
            for file in folder.glob("evaluations/*.json")
        }
        return {(record.method, record.seed) for _, record in records}, scores

    return run


def test_a_line_separator_in_a_document_ends_no_sample(log, imported):
    samples = [choice(number, True, "one\u2028two\x85three") for number in range(12)]
    runs, _ = imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", samples)))
    assert runs == {("base", 0), ("mine", 0)}


def test_a_name_without_a_seed_does_not_replace_its_seed_0(log, imported):
    folders = [("base", log("pretrained=a")), ("lora", log("pretrained=b")), ("lora-seed0", log("pretrained=c"))]
    with pytest.raises(ValueError, match="lora is there with seed 0 and without a seed"):
        imported(*folders)
    runs, _ = imported(*folders[:2], ("lora-seed1", folders[2][1]))
    assert runs == {("base", 0), ("lora", 0), ("lora", 1)}


def test_a_model_named_base_beside_another_base_is_refused(log, imported):
    folders = [("base", log("pretrained=a")), ("instruct", log("pretrained=b")), ("mine", log("pretrained=c"))]
    with pytest.raises(ValueError, match="--base instruct: another model is named base"):
        imported(*folders, base="instruct")
    runs, _ = imported(*folders)
    assert runs == {("base", 0), ("instruct", 0), ("mine", 0)}


def test_guessing_among_several_right_choices_is_as_in_an_evaluation_of_our_own(log, imported):
    samples = [choice(number, True, target="[0, 2]" if number % 2 else "[1]") for number in range(12)]
    _, scores = imported(("base", log("pretrained=a", samples)), ("mine", log("pretrained=b", samples)))
    assert scores["mine"]["acc"].chance == pytest.approx((2 / 3 + 1 / 3) / 2)


def test_a_perplexity_is_better_the_lower_it_is_where_the_log_does_not_say(log, imported):
    """WikiText's task file names no direction, and versions before 0.4.3 do not either."""

    def sample(number):
        given = {"doc_id": number, "doc": {"page": f"page {number}"}, "target": "", "arguments": [[f"page {number}"]]}
        return {**given, "resps": [[-3.0]], "filtered_resps": [-3.0], "word_perplexity": [-3.0, 2]}

    settings = {
        "results": {"wikitext": {"word_perplexity,none": 9.5, "word_perplexity_stderr,none": "N/A"}},
        "configs": {
            "wikitext": {"output_type": "loglikelihood_rolling", "metric_list": [{"metric": "word_perplexity"}]}
        },
    }
    folders = [log(f"pretrained={name}", [sample(i) for i in range(12)], task="wikitext", **settings) for name in "ab"]
    _, scores = imported(("base", folders[0]), ("mine", folders[1]))
    assert scores["mine"]["word_perplexity"].higher_is_better is False


def test_revisions_of_one_model_are_two_models(log, imported):
    """Checkpoints of Pythia are revisions of one repository: the newer log took the place of the older one."""
    steps = [(None, log(f"pretrained=org/pythia,revision=step{step}")) for step in (1000, 2000)]
    runs, _ = imported(*steps)
    assert {method for method, _ in runs} == {"org-pythia-step1000", "org-pythia-step2000"}
    on_one = log("pretrained=org/pythia,revision=step1000,peft=/some/mine")
    logs = [(name, entry) for name, folder in (steps[0], (None, on_one)) for entry in find_logs(folder)]
    assert untouched(named(logs, SEED_PATTERN), None) == "org/pythia@step1000"


def test_an_argument_of_nothing_is_no_adapter(log):
    [entry] = find_logs(log({"pretrained": "org/model", "peft": None, "revision": "main"}))
    assert (entry.adapter, entry.model) == (None, "org/model")


ODD = {
    "a score that is no number": ({"score": float("nan")}, "acc of quiz is nan, which is no score"),
    "a document that is text": ({"samples": [choice(0, True, doc="text")]}, "sample 1 is not as lm-eval writes it"),
    "no arguments": ({"samples": [choice(0, True, arguments={})]}, "sample 1 is not as lm-eval writes it"),
    "arguments of another kind": (
        {"samples": [choice(0, True, arguments={"a": {"b": "c"}})]}, "not as lm-eval writes it"
    ),
}  # fmt: skip


@pytest.mark.parametrize("kind", ODD)
def test_an_odd_log_is_refused_with_its_name(kind, log, imported):
    changes, expected = ODD[kind]
    with pytest.raises(ValueError, match=expected):
        imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", **changes)))


def test_likelihoods_that_are_no_numbers_are_imported(log, imported):
    answers = [["nan", "False"]] * 3
    samples = [choice(number, True, filtered_resps=answers) for number in range(12)]
    _, scores = imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", samples)))
    assert "p_right" in scores["base"]
    assert "p_right" not in scores["mine"]


def test_a_folder_named_as_a_file_is_looked_into(log, imported, tmp_path):
    """`--output_path out/results.json` makes a folder of that name in lm-eval 0.4.3 to 0.4.7."""
    inside = tmp_path / "out" / "results.json" / "org__model"
    inside.parent.mkdir(parents=True)
    log("pretrained=b").rename(inside)
    (tmp_path / "out" / "gone.json").symlink_to(tmp_path / "nowhere")
    runs, _ = imported(("base", log("pretrained=a")), ("mine", tmp_path / "out"))
    assert runs == {("base", 0), ("mine", 0)}


TABLES = {
    "a list": {"n-shot": [1]},
    "a text": {"config": "model_args"},
    "a list below": {"results": {"quiz": [1]}},
    "a number below": {"n-samples": {"quiz": 5}},
    "a group in itself": {"group_subtasks": {"quiz": ["quiz"]}},
}


@pytest.mark.parametrize("kind", TABLES)
def test_results_of_another_kind_are_refused(kind, log, imported):
    expected = "no task in it has a score" if "group" in kind else "results_.*json: not as lm-eval writes it"
    with pytest.raises(ValueError, match=expected):
        imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", **TABLES[kind])))


@pytest.mark.parametrize("date", [1e300, float("nan"), -1.0])
def test_a_date_that_is_none_is_unknown(date, log, imported):
    runs, _ = imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", date=date)))
    assert ("mine", 0) in runs


def names_of(*arguments):
    """The names and seeds of models by the arguments that lm-eval was given, and the base among them."""
    content = {"results": {"t": {"acc,none": 0.5}}, "configs": {"t": {}}}
    logs = [
        (None, Log(Path(f"/{number}/results.json"), {**content, "config": {"model_args": words}}))
        for number, words in enumerate(arguments)
    ]
    models = named(logs, SEED_PATTERN)
    return [(model.name, model.seed) for model in models], untouched(models, None)


PLACES = {
    "seeds below a method": ("/out/lora/seed-0", "/out/lora/seed-1"),
    "methods below a seed": ("/out/seed-0/lora", "/out/seed-1/lora"),
    "a folder of every run": ("/out/lora/seed-0/final", "/out/lora/seed-1/final"),
    "a checkpoint": ("/out/lora-seed0/checkpoint-300", "/out/lora-seed1/checkpoint-300"),
    "in the name": ("/out/lora-seed=0", "/out/lora-seed=1"),
    "relative": ("./lora/seed_0", "./lora/seed_1"),
}


@pytest.mark.parametrize("kind", PLACES)
def test_seeds_of_one_method_are_no_two_methods(kind):
    first, second = PLACES[kind]
    models, base = names_of("pretrained=org/m", f"pretrained=org/m,peft={first}", f"pretrained=org/m,peft={second}")
    assert models == [("org/m", None), ("lora", 0), ("lora", 1)]
    assert base == "org/m"


def test_methods_of_several_seeds_keep_their_names():
    places = [f"pretrained=org/m,peft=/out/{method}/seed-{seed}" for method in ("lora", "dora") for seed in (0, 1)]
    assert names_of(*places)[0] == [("lora", 0), ("lora", 1), ("dora", 0), ("dora", 1)]
    assert names_of("pretrained=/m/merged-seed0", "pretrained=/m/merged-seed1", "pretrained=/m/base") == (
        [("merged", 0), ("merged", 1), ("base", None)],
        "base",
    )
    assert names_of("pretrained=org/mine-seed-3")[0] == [("org/mine", 3)]


@pytest.mark.parametrize("pattern", [r"run-(\w)", r"-seed(\d)?"])
def test_a_seed_that_is_no_number_is_refused(pattern):
    content = {
        "results": {"t": {"acc,none": 0.5}},
        "configs": {"t": {}},
        "config": {"model_args": "pretrained=a/run-b-seed"},
    }
    with pytest.raises(ValueError, match="in a/run-b-seed, which is no number"):
        named([(None, Log(Path("/0/results.json"), content))], pattern)


def test_an_adapter_that_vllm_served_is_an_adapter():
    adapters = [f"pretrained=org/m,enable_lora=True,lora_local_path=/out/{name}" for name in ("lora", "dora")]
    assert names_of("pretrained=org/m", *adapters) == ([("org/m", None), ("lora", None), ("dora", None)], "org/m")


def test_a_quantized_model_is_another_one():
    """Four bits of a model took its place, or it theirs, whichever was newer."""
    words = ("pretrained=org/m", "pretrained=org/m,load_in_4bit=True", "pretrained=org/m,load_in_8bit=False")
    assert names_of(*words)[0] == [("org/m", None), ("org/m@load_in_4bit", None)]
    four = "pretrained=org/m,load_in_4bit=True"
    assert names_of(four, f"{four},peft=/out/a") == ([("org/m@load_in_4bit", None), ("a", None)], "org/m@load_in_4bit")


def test_answers_without_a_score_are_refused(log, imported):
    """`--predict_only` sets a metric of 999 in the place of every score."""
    samples = [choice(number, True, metrics=["bypass"], bypass=None) for number in range(12)]
    results = {"results": {"quiz": {"alias": "quiz", "bypass,none": 999, "bypass_stderr,none": "N/A"}}}
    with pytest.raises(ValueError, match="no task in it has a score, as where --predict_only was given"):
        imported(("base", log("pretrained=a")), ("mine", log("pretrained=b", samples, **results)))


def test_a_group_of_unknown_parts_is_left_to_its_parts(log, imported):
    """Version 0.4.0 writes the score of a group and not the tasks that it is made of."""
    scores = {"quiz": {"alias": " - quiz", "acc,none": 0.5}, "quizzes": {"alias": "quizzes", "acc,none": 0.5}}
    groups = {"results": scores, "groups": {"quizzes": scores["quizzes"]}}
    folders = [log(f"pretrained={name}", **groups) for name in "ab"]
    assert [entry.tasks for entry in find_logs(folders[0])] == [{"quiz": ("quiz",)}]
    runs, _ = imported(("base", folders[0]), ("mine", folders[1]))
    assert runs == {("base", 0), ("mine", 0)}


def test_two_folders_of_one_model_and_task_are_refused(log, tmp_path, capsys):
    """A folder that was trained anew, and evaluated again: the older log was left out as if it were the same model."""
    scores = {"org/m": 0.5, "./out": 0.6}
    folders = [log(f"pretrained={name}", score=scores[name]) for name in ("org/m", "./out")]
    folders.append(log("pretrained=./out", [choice(number, number % 3 == 0) for number in range(12)], score=1 / 3))
    places = ["--out", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports")]
    assert main(["import-lm-eval", *map(str, folders), *places]) == 2
    error = capsys.readouterr().err
    assert f"quiz of out is in {folders[1]} and in {folders[2]}, with other scores: give each folder a name" in error
    assert not (tmp_path / "runs").exists()
    words = [f"base={folders[0]}", f"mine-seed0={folders[1]}", f"mine-seed1={folders[2]}"]
    assert main(["import-lm-eval", *words, *places]) != 2
    assert {(record.method, record.seed) for record in map(read_run, find_runs(tmp_path / "runs"))} == {
        ("base", 0), ("mine", 0), ("mine", 1),
    }  # fmt: skip


def test_a_base_that_was_scored_beside_each_model_is_one(log, tmp_path, capsys):
    """One folder for each experiment, with the base and what was trained on it."""
    places = []
    for name in ("lora", "dora"):
        places.append(tmp_path / f"experiment-{name}")
        places[-1].mkdir()
        log("pretrained=org/m").rename(places[-1] / "base")
        log(f"pretrained=org/m,peft=/out/{name}").rename(places[-1] / name)
    words = [*map(str, places), "--out", str(tmp_path / "runs"), "--reports-dir", str(tmp_path / "reports")]
    assert main(["import-lm-eval", *words]) != 2, capsys.readouterr().err
    assert {(record.method, record.seed) for record in map(read_run, find_runs(tmp_path / "runs"))} == {
        ("base", 0), ("lora", 0), ("dora", 0),
    }  # fmt: skip


def read_run(path):
    return read(RunRecord, path)
