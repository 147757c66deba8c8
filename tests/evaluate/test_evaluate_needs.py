"""What tasks take beside their rows is had without the internet, or refused in one line."""

import os
import sys

import pytest

from harness.evaluate import task_index, tasks

OWN = """\
task: own
dataset_path: json
dataset_kwargs: {{data_files: {{test: {rows}}}}}
test_split: test
output_type: generate_until
unsafe_code: {unsafe}
doc_to_text: "{{{{question}}}}"
doc_to_target: answer
process_results: !function utils.scored
metric_list: [{{metric: right, aggregation: mean, higher_is_better: true}}]
"""


@pytest.fixture
def own(tmp_path):
    """Loads a task of one's own whose code is as given."""

    def made(code, unsafe=False, unsafe_code=False):
        (tmp_path / "rows.jsonl").write_text('{"question": "1?", "answer": "1"}\n')
        (tmp_path / "own.yaml").write_text(OWN.format(rows=tmp_path / "rows.jsonl", unsafe=str(unsafe).lower()))
        (tmp_path / "utils.py").write_text(code)
        return tasks.load("own", "package", None, str(tmp_path), unsafe_code)

    return made


def test_ifeval_judges_every_item_without_the_internet(monkeypatch):
    import nltk

    monkeypatch.setattr(nltk, "download", lambda *_, **__: pytest.fail("looked on the internet"))
    monkeypatch.setattr(nltk.data, "path", [])
    [task] = tasks.load("ifeval", "package", None)["tasks"].values()
    docs = list(task.eval_docs)
    answer = "Dr. Who is here. He, who was there, is not. Is he?"
    sentences = [doc for doc in docs if "length_constraints:number_sentences" in doc["instruction_id_list"]]
    assert (len(docs), len(sentences)) == (541, 46)
    judged = [task.process_results(doc, [answer]) for doc in docs]
    assert all({"prompt_level_strict_acc", "inst_level_loose_acc"} <= set(one) for one in judged)
    assert 0 < sum(one["prompt_level_strict_acc"] for one in judged) < len(docs)
    assert sys.modules["lm_eval.tasks.ifeval.instructions_util"].count_sentences(answer) == 3


def test_each_load_imports_the_modules_of_a_task_anew():
    """Also those that a task's file takes from the package beside it."""
    names = [f"lm_eval.tasks.ifeval.{name}" for name in ("instructions", "instructions_registry", "instructions_util")]
    loads = [tasks.load("ifeval", "package", None) and [sys.modules[name] for name in names] for _ in range(2)]
    assert not any(first is second for first, second in zip(*loads, strict=True))


def test_without_what_it_needs_ifeval_is_refused(monkeypatch, tmp_path):
    import nltk

    place = task_index.folder_of("ifeval", "eval.tasks")
    monkeypatch.setattr(task_index, "folder_of", lambda name, setting: place)  # else looked for anew in an empty cache
    monkeypatch.setattr(nltk.data, "path", [])
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path))
    monkeypatch.setenv("HARNESS_OFFLINE", "1")
    with pytest.raises(ValueError, match=r"^eval\.tasks=ifeval needs NLTK's punkt_tab .* HARNESS_OFFLINE=1 forbids"):
        tasks.load("ifeval", "package", None)


@pytest.mark.parametrize(
    ("code", "reason"),
    [
        ("import nothing_of_that_name", "ModuleNotFoundError: No module named 'nothing_of_that_name'. Install"),
        ("raise FileNotFoundError('no metric x.\\nmore')", "FileNotFoundError: no metric x. Install"),
        ("raise ConnectionError('no Hub')", "ConnectionError: no Hub. Install"),
        ("raise RuntimeError('scripts are not run')", "RuntimeError: scripts are not run. Install"),
    ],
)
def test_what_a_task_cannot_have_is_said_in_one_line(own, code, reason):
    with pytest.raises(ValueError, match=r"^eval\.tasks=own: lm-eval cannot set it up here: ") as error:
        own(code)
    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_task_that_runs_code_is_refused_before_its_own_code_is_read(own, monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    code = "raise FileNotFoundError('imported')"
    with pytest.raises(ValueError, match=r"^eval\.tasks=own: own runs the code that the model writes"):
        own(code, unsafe=True)
    assert "HF_ALLOW_CODE_EVAL" not in os.environ
    with pytest.raises(ValueError, match="FileNotFoundError: imported"):
        own(code, unsafe=True, unsafe_code=True)


def test_a_task_that_runs_code_need_not_ask_again(own, monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "0")
    code = "import os\nasked = os.environ['HF_ALLOW_CODE_EVAL']\n"
    code += "def scored(doc, results):\n    return {'right': float(asked == '1')}\n"
    [task] = own(code, unsafe=True, unsafe_code=True)["tasks"].values()
    assert task.process_results({}, ["x"]) == {"right": 1.0}


def test_the_sets_own_code_tasks_are_refused_by_name():
    for name in ("humaneval", "mbpp"):
        with pytest.raises(ValueError, match=rf"^eval\.tasks={name}: {name} runs the code"):
            tasks.load(name, "hub", None)
