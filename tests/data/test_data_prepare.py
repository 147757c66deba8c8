import dataclasses
import json
import random

import pytest
import yaml
from pydantic import TypeAdapter

from harness.data import prepare
from harness.data.format import Example
from harness.data.prepare import key, with_test_file
from harness.records.settings import DataSpec, RowsSpec
from harness.sources.packages import conf_dir


def write(path, pairs):
    path.write_text("".join(json.dumps({"prompt": p, "completion": c}) + "\n" for p, c in pairs))
    return str(path)


def file_data(train, test=None, **changes):
    rows = RowsSpec(prompt="{{prompt}}", completion="{{completion}}", file=train)
    fields = {"name": "file", "source": "package", "train": (rows,), "validation_fraction": 0.3, "test_file": test}
    return DataSpec(**(fields | changes))


def official_data(name):
    content = yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())
    return TypeAdapter(DataSpec).validate_json(json.dumps(content), strict=True)


PAIRS = [(f"Question {n}", f" answer {n}") for n in range(200)]


def test_the_split_depends_on_content_and_not_on_order(tmp_path):
    first = prepare(file_data(write(tmp_path / "a.jsonl", PAIRS)))
    shuffled = random.Random(0).sample(PAIRS, len(PAIRS))
    assert shuffled != PAIRS
    second = prepare(file_data(write(tmp_path / "b.jsonl", shuffled)))
    assert first == second
    assert {(e.prompt, e.completion) for e in first.train + first.validation} == set(PAIRS)
    assert 40 <= len(first.validation) <= 80
    more = prepare(file_data(write(tmp_path / "c.jsonl", [*PAIRS, ("Another one", " x")])))
    assert set(first.validation) <= set(more.validation)
    assert set(first.train) <= set(more.train)
    assert more.content_sha256 != first.content_sha256


def test_a_larger_validation_fraction_only_adds(tmp_path):
    file = write(tmp_path / "a.jsonl", PAIRS)
    small, large = (prepare(file_data(file, validation_fraction=f)) for f in (0.1, 0.5))
    assert set(small.validation) < set(large.validation)


def test_equal_prompts_are_on_the_same_side(tmp_path):
    pairs = [(prompt, f" {n}") for n in range(4) for prompt, _ in PAIRS[:50]] + [("  QUESTION   1 ", " other")]
    result = prepare(file_data(write(tmp_path / "a.jsonl", pairs)))
    assert {key(e) for e in result.train}.isdisjoint({key(e) for e in result.validation})
    assert len(result.train) + len(result.validation) == 201


def test_max_rows_takes_the_first_of_the_fixed_order(tmp_path):
    file = write(tmp_path / "a.jsonl", PAIRS)
    whole, part = prepare(file_data(file)), prepare(file_data(file, max_rows=10))
    assert part.train == whole.train[:10]
    assert part.validation == whole.validation


def test_rows_whose_prompt_is_in_a_test_set_are_dropped_and_duplicates_counted(tmp_path):
    train = write(tmp_path / "a.jsonl", [*PAIRS, PAIRS[0], PAIRS[0], ("question  5", " another answer")])
    test = write(tmp_path / "t.jsonl", [("QUESTION 5 ", " answer 5"), ("Question\n7", " x"), ("unseen", " y")])
    result = prepare(file_data(train, test))
    assert result.removed_duplicates == 2
    assert result.removed_in_test == 3
    assert len(result.train) + len(result.validation) == 198
    assert [e.prompt for e in result.test] == ["QUESTION 5 ", "Question\n7", "unseen"]
    assert not {key(e) for e in result.train + result.validation} & {"question 5", "question 7"}


def test_without_a_prompt_the_completion_tells_rows_apart(tmp_path):
    train = write(tmp_path / "a.jsonl", [("", f"text {n}") for n in range(50)])
    result = prepare(file_data(train, write(tmp_path / "t.jsonl", [("", "Text 3")])))
    assert result.removed_in_test == 1
    assert len(result.train) + len(result.validation) == 49


def test_nothing_left_is_an_error(tmp_path):
    file = write(tmp_path / "a.jsonl", PAIRS[:20])
    with pytest.raises(ValueError, match=r"data=file: no training rows are left of 20 \(.*a.jsonl\)"):
        prepare(file_data(file, write(tmp_path / "t.jsonl", PAIRS)))
    with pytest.raises(ValueError, match=r"no validation rows are left of 20 .* validation_fraction=1e-06"):
        prepare(file_data(file, validation_fraction=1e-6))


def test_rows_must_come_from_somewhere():
    with pytest.raises(ValueError, match=r"give data.file=<JSON Lines file>"):
        prepare(file_data(None))
    half = RowsSpec(prompt="p", completion="c", dataset="openai/gsm8k", subset="main")
    with pytest.raises(ValueError, match="need a split"):
        prepare(dataclasses.replace(file_data("unused"), train=(half,)))


def test_a_test_file_takes_the_format_of_the_training_file():
    spec = file_data("a.jsonl", "t.jsonl")
    filled = with_test_file(spec)
    assert filled.test == (dataclasses.replace(spec.train[0], file="t.jsonl"),)
    assert with_test_file(filled) == filled
    with pytest.raises(ValueError, match=r"data.test_file=t.jsonl: data=science_qa trains on no file"):
        with_test_file(dataclasses.replace(official_data("science_qa"), test_file="t.jsonl"))


def test_science_qa_as_published():
    result = prepare(official_data("science_qa"))
    assert len(result.train) + len(result.validation) == 1369 - result.removed_in_test - result.removed_duplicates
    assert (len(result.train), len(result.validation), len(result.test)) == (1179, 190, 2876)
    assert {key(e) for e in result.test}.isdisjoint({key(e) for e in result.train + result.validation})
    assert result.content_sha256.startswith("4a9c0008")


def test_gsm8k_as_published():
    result = prepare(official_data("gsm8k"))
    assert (len(result.train), len(result.validation), len(result.test)) == (7086, 387, 1319)
    assert result.test[0].completion.endswith("#### 18")
    assert isinstance(result.train[0], Example)


def test_every_data_configuration_gives_all_fields():
    paths = sorted((conf_dir() / "data").glob("*.yaml"))
    names = [path.stem for path in paths if "defaults" not in yaml.safe_load(path.read_text())]
    assert [path.stem for path in paths if path.stem not in names] == ["science_mixed"]  # science_qa's, and its own
    assert names == ["alpaca", "file", "gsm8k", "science_qa"]
    fields = {field.name for field in dataclasses.fields(DataSpec)} - {"content"}
    for name in names:
        assert set(yaml.safe_load((conf_dir() / "data" / f"{name}.yaml").read_text())) == fields
        spec = official_data(name)
        assert spec.name == name
        assert set(spec.retention) < set(spec.tasks) or spec.retention == spec.tasks


def test_the_rows_of_each_split_of_a_folder_are_counted_apart(tmp_path):
    """And those of one file that is named twice are counted once."""
    write(tmp_path / "train.jsonl", PAIRS[:100])
    write(tmp_path / "test.jsonl", PAIRS[90:120])
    train, test = (RowsSpec(file=str(tmp_path), split=split) for split in ("train", "test"))
    prepared = prepare(dataclasses.replace(file_data("none"), train=(train,), test=(test,)))
    used = len(prepared.train)
    assert prepared.sources == ((f"{tmp_path} train", 100, used),)
    twice = dataclasses.replace(train, prompt="Once more: {{prompt}}")
    both = prepare(dataclasses.replace(file_data("none"), train=(train, twice)))
    assert both.sources == ((f"{tmp_path} train", 200, len(both.train)),)


HELD_OUT = [
    (" write.", "Haiku 3", True),
    ("Write.", "haiku  3", True),
    ("Write.", "Other", False),
    ("Sing.", "Haiku 3", False),
]


@pytest.mark.parametrize(("prompt", "answer", "is_the_row"), HELD_OUT)
@pytest.mark.parametrize("split_by", ["prompt", "row"])
def test_rows_are_told_from_held_out_ones_as_they_are_divided(tmp_path, split_by, prompt, answer, is_the_row):
    """One prompt for all rows must not forbid all of them; a row that is held out itself is left out either way."""
    train, test = tmp_path / "train.jsonl", tmp_path / "test.jsonl"
    rows = [{"prompt": "Write.", "completion": f"Haiku {number}"} for number in range(40)]
    others = [{"prompt": f"Prompt {number}", "completion": "yes"} for number in range(40)]
    train.write_text("".join(json.dumps(row) + "\n" for row in [*rows, *others]))
    test.write_text(json.dumps({"prompt": prompt, "completion": answer}) + "\n")
    found = prepare(
        DataSpec(
            name="f", source="package", train=(RowsSpec(file=str(train)),), validation_fraction=0.2,
            test_file=str(test), split_by=split_by,
        )
    )  # fmt: skip
    removed = 40 if split_by == "prompt" and prompt.strip() != "Sing." else int(is_the_row and split_by == "row")
    assert found.removed.get("in_test", 0) == removed
    assert len(found.train) + len(found.validation) == 80 - removed
    what = "prompt is" if split_by == "prompt" else "prompt and answer are"
    assert all(f"its {what} in a test set" in line for line in found.problems.get("in_test", ()))
