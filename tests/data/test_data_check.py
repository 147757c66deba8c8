"""The check of data, on a file in which everything is broken and on GSM8K, and in bounded memory."""

import json
import os
import subprocess
import sys

import pytest

from harness.records import data_check, record
from harness.records.data_check import DataCheck
from harness.report.pages import data_card
from harness.run.audit import audit

LONG = "what is the capital of the largest country in western europe by area as of today"


def line(prompt, completion):
    return json.dumps({"prompt": prompt, "completion": completion}) + "\n"


@pytest.fixture
def checked(compose, tiny_overrides, tmp_path, monkeypatch):
    from harness.config import config
    from harness.run import inputs

    monkeypatch.setenv("HARNESS_CACHE", os.environ.get("HARNESS_CACHE") or str(tmp_path / "cache"))

    def made(*words):
        return audit(inputs.resolve(config.build(compose(*tiny_overrides, *words))), lambda event: None)

    return made


@pytest.fixture
def broken(tmp_path):
    path = tmp_path / "broken.jsonl"
    rows = [line(LONG, " paris"), line(LONG, " paris"), line("is it?", " yes"), line("Is  IT?", " no")]
    rows += ['{"prompt": "broken\n', line("nothing", " "), "[1]\n"]
    rows += [line(f"say {n}", f" word{n}") for n in range(60)]
    path.write_bytes("".join(rows).encode() + b'{"prompt": "caf\xe9", "completion": " x"}\n')
    return path


def test_everything_that_is_broken_is_named_by_its_line(checked, broken, tmp_path):
    found = checked(f"data.file={broken}")
    by_kind = {problem.kind: problem for problem in found.problems}
    assert {kind: problem.rows for kind, problem in by_kind.items()} == {
        "malformed": 2, "not_utf8": 1, "empty": 1, "duplicate": 1,
    }  # fmt: skip
    assert [text.split(": ")[0] for text in by_kind["malformed"].examples] == [f"{broken}:5", f"{broken}:7"]
    assert by_kind["not_utf8"].examples[0].startswith(f"{broken}:68: not UTF-8")
    assert found.contradictions == (1, 2)
    assert len(found.refusals) == 3
    assert record.read(DataCheck, data_check.path(tmp_path / "runs", found.check_id)) == found
    text = data_card.card(found)
    assert "**Refused.**" in text
    assert "\u2588" in text
    dropped = checked(f"data.file={broken}", "data.on_malformed=drop", "data.on_empty=drop")
    assert dropped.refusals == ()
    assert dropped.removed == {"duplicate": 1, "empty": 1, "malformed": 2, "not_utf8": 1}
    assert dropped.train_rows + dropped.validation_rows == 63


def test_gsm8k_is_checked_against_every_item_of_its_task(checked):
    found = checked("data=gsm8k", "data.file=null", "eval.tasks=[gsm8k]", "train.max_length=900")
    assert (found.given_rows, found.train_rows, found.validation_rows, found.test_rows) == (7473, 7086, 387, 1319)
    task, *heldout = found.overlaps
    assert (task.name, task.items) == ("gsm8k", 1319)
    assert 0 < task.items_found < 20
    assert [one.name for one in heldout] == ["gsm8k/validation", "gsm8k/test"]
    assert found.sources[0].license == "MIT"
    assert found.near.rows_looked_at == found.near.rows == 7473
    assert found.lengths[0].rows_over > 0
    assert found.refusals == ()
    assert "license: MIT" in data_card.card(found)


COUNT = """
import resource, sys
from transformers import AutoTokenizer
from harness.data import Wanted, tokenized
from harness.records.settings import DataSpec, RowsSpec
tokenizer = AutoTokenizer.from_pretrained(sys.argv[2])
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
spec = DataSpec(name="many", source="package", train=(RowsSpec(file=sys.argv[1]),), validation_fraction=0.01)
told = []
wanted = Wanted(model_content=None, max_length=512, loss_on="completion")
found = tokenized(spec, tokenizer, wanted, lambda what, rows: told.append(what))
print(found.counts.train_rows + found.counts.validation_rows, found.counts.removed_duplicates, len(told))
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)
"""


def test_a_hundred_thousand_rows_take_little_memory(tmp_path, tiny_model):
    path = tmp_path / "many.jsonl"
    with path.open("w") as file:
        for number in range(100_000):
            which = number if number % 100 else 0
            file.write(line(f"Q {which}: how much?", f" it is {which}"))
    done = subprocess.run(
        [sys.executable, "-c", COUNT, str(path), str(tiny_model)],
        capture_output=True, text=True, check=True, env={**os.environ, "HARNESS_CACHE": str(tmp_path / "cache")},
    )  # fmt: skip
    rows, megabytes = done.stdout.splitlines()
    assert rows.split()[:2] == ["99001", "999"]
    assert int(rows.split()[2]) > 50, "progress is told"
    assert int(megabytes) < 300


def test_the_command_prints_json_that_is_the_check_on_disk(tiny_overrides, tmp_path, capsys):
    from harness.data.__main__ import main

    assert main(["check", *tiny_overrides, "--json"]) == 0
    [printed] = json.loads(capsys.readouterr().out)
    [path] = (tmp_path / "runs" / "data").glob("*.json")
    assert printed == json.loads(path.read_text())
    assert printed["train_rows"] > 0
