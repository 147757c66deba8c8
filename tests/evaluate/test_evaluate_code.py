"""Programs that a model wrote: run only where that was said, and judged as the published module judges them."""

import time

import pytest

from harness.evaluate import code_eval, tasks

ADD = "def add(a, b):\n    return a + b\n"
TEST = "assert add(2, 3) == 5"


@pytest.fixture
def allowed(monkeypatch):
    monkeypatch.setenv("HF_ALLOW_CODE_EVAL", "1")


@pytest.mark.parametrize(
    ("program", "passed"),
    [
        (f"{ADD}{TEST}", True),
        (f"{ADD}assert add(2, 3) == 6", False),
        (f"print('talks')\nprint(input)\n{ADD}{TEST}", True),
        ("import sys\nsys.exit(0)\nassert False", False),  # leaves before its test
        ("import sys\nsys.exit(42)", False),
        ("raise KeyboardInterrupt", False),
        ("def broken(:", False),
        ("x = bytearray(8 * 2**30)", False),
        ("from pathlib import Path\nassert list(Path().iterdir()) == []\nPath('left').write_text('x')", True),
        ("import os\nassert 'HF_ALLOW_CODE_EVAL' not in os.environ", True),
        ("input()", False),  # nothing to read
        ("# \ud800\npass", True),
    ],
)
def test_a_program_passes_if_its_end_is_reached(allowed, program, passed):
    assert code_eval.passes(program) is passed


def test_a_program_that_does_not_end_is_ended_with_what_it_started(allowed, tmp_path, monkeypatch):
    monkeypatch.setattr(
        code_eval, "_RUN", code_eval._RUN.replace(f"ITIMER_REAL, {code_eval.SECONDS}", "ITIMER_REAL, 1")
    )
    left = tmp_path / "left"
    child = f"import time\ntime.sleep(3)\nopen({str(left)!r}, 'w')"
    start = time.monotonic()
    assert not code_eval.passes(
        f"import subprocess, sys\nsubprocess.Popen([sys.executable, '-c', {child!r}])\nwhile True: pass"
    )
    assert time.monotonic() - start < 3
    time.sleep(3)
    assert not left.exists()


def test_pass_at_k_is_that_of_the_paper(allowed):
    module = code_eval.CodeEval(keep_in_memory=True, experiment_id="x")
    wrong = "def add(a, b):\n    return a * b\n"
    scores, results = module.compute(predictions=[[ADD, wrong], [wrong, wrong]], references=[TEST, TEST], k=[1, 2, 3])
    assert scores == {"pass@1": 0.25, "pass@2": 0.5}, "three were not tried"
    assert [[one["passed"] for _, one in results[problem]] for problem in (0, 1)] == [[True, False], [False, False]]
    assert code_eval.pass_at_k(3, 10, 2) == pytest.approx(1 - (7 / 10) * (6 / 9))


def test_nothing_is_run_where_it_was_not_said(monkeypatch):
    monkeypatch.delenv("HF_ALLOW_CODE_EVAL", raising=False)
    monkeypatch.setattr(code_eval, "passes", lambda program: pytest.fail("run"))
    module = code_eval.CodeEval(keep_in_memory=True, experiment_id="x")
    with pytest.raises(ValueError, match=r"eval\.unsafe_code=true"):
        module.compute(predictions=[[ADD]], references=[TEST], k=[1])


def test_humaneval_judges_the_published_solutions_without_the_hub(monkeypatch, allowed):
    import evaluate

    theirs = evaluate.load
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [task] = tasks.load("humaneval", "package", None, unsafe_code=True)["tasks"].values()
    assert evaluate.load is theirs
    docs = list(task.eval_docs)
    assert len(docs) == 164
    assert set(docs[0]) == {"task_id", "prompt", "entry_point", "canonical_solution", "test"}
    for doc, answer, passed in ((docs[0], docs[0]["canonical_solution"], 1.0), (docs[1], "    return 0\n", 0.0)):
        program = doc["prompt"] + answer
        assert task.process_results(doc, [[program]]) == {"pass@1": passed}


def test_mbpp_judges_an_answer_without_the_hub(monkeypatch, allowed):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    [task] = tasks.load("mbpp", "package", None, unsafe_code=True)["tasks"].values()
    docs = list(task.eval_docs)
    assert [doc["task_id"] for doc in docs] == list(range(11, 511))
    assert all(len(doc["test_list"]) == 3 for doc in docs)
    assert all(test.lstrip().startswith("assert ") for doc in docs for test in doc["test_list"])
    assert [doc["task_id"] for doc in docs if doc["test_setup_code"]] == [367]
    prompt = task.doc_to_text(docs[0])
    assert "remove first and last occurrence" in prompt
    assert docs[0]["test_list"][0] in prompt
    body = "    i, j = s.find(c), s.rfind(c)\n    return ''.join(x for k, x in enumerate(s) if k not in (i, j))\n"
    right = f"def remove_Occ(s, c):\n{body}"
    assert task.process_results(docs[0], [[right]]) == {"pass_at_1": 1.0}
    assert task.process_results(docs[0], [["def remove_Occ(s, c):\n    return s\n"]]) == {"pass_at_1": 0.0}
