"""Files of every kind, formats that are recognized, policies, mixing, and sets that do not fit into memory."""

import csv
import json
from pathlib import Path

import pytest

from harness.data import files, prepare, spill
from harness.data.columns import recognize
from harness.data.duplicates import key
from harness.data.files import RowError
from harness.data.format import ALPACA, render
from harness.records.settings import DataSpec, RowsSpec

ROWS = [{"prompt": f"Question {n}, with a comma", "completion": f" answer\n{n}"} for n in range(40)]


def written(folder, kind, rows):
    import pyarrow
    from pyarrow import parquet

    path, table = folder / f"rows{kind}", pyarrow.Table.from_pylist(rows)
    if kind == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    elif kind == ".json":
        path.write_text(json.dumps(rows, indent=1))
    elif kind in (".csv", ".tsv"):
        with path.open("w", newline="") as file:
            writer = csv.DictWriter(file, list(rows[0]), delimiter="\t" if kind == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    elif kind == ".parquet":
        parquet.write_table(table, path)
    elif kind == ".arrow":
        with pyarrow.ipc.new_stream(path, table.schema) as writer:
            writer.write_table(table)
    else:
        import datasets

        path = folder / "saved"
        datasets.Dataset.from_list(rows).save_to_disk(path)
    return path


def data(file, **changes):
    rows = changes.pop("rows", RowsSpec(file=str(file)))
    return DataSpec(**({"name": "mine", "source": "package", "train": (rows,), "validation_fraction": 0.2} | changes))


@pytest.mark.parametrize("kind", [".jsonl", ".json", ".csv", ".tsv", ".parquet", ".arrow", "folder"])
def test_every_kind_of_file_gives_the_same_rows(tmp_path, kind):
    path = written(tmp_path, kind, ROWS)
    assert [row for _, row in files.stream(path)] == ROWS
    assert len(prepare(data(path)).train) + len(prepare(data(path)).validation) == 40


@pytest.mark.parametrize(
    ("name", "content", "line", "kind"),
    [
        ("a.csv", b"prompt,completion\na,b\nc\n", 3, "malformed"),
        ("a.csv", b"prompt,completion\na,\xe9\n", 2, "not_utf8"),
        ("a.csv", b'prompt,completion\na,"b\nc"\n\nd,e\n', 4, "empty"),
        ("a.json", b'[{"a": 1},\n [2]]', 2, "malformed"),
        ("a.jsonl", b'{"a": 1}\n\n{"a": 2}\n', 2, "empty"),
        ("a.jsonl", b'{"a": 1}\n{"a": "\xff"}\n', 2, "not_utf8"),
    ],
)
def test_what_is_wrong_with_a_row_is_named_by_its_line(tmp_path, name, content, line, kind):
    path = tmp_path / name
    path.write_bytes(content)
    [(number, error)] = [(number, row) for number, row in files.stream(path) if isinstance(row, RowError)]
    assert (number, error.kind) == (line, kind)
    assert str(error).startswith(f"{path}:{line}: ")


@pytest.mark.parametrize(
    ("name", "content", "complaint"),
    [
        ("a.json", b'{"a": 1}', r"a.json:1: a .json file must be one array"),
        ("a.json", b'[{"a": 1},\n {"a": }]', r"a.json:2: not JSON"),
        ("a.json", b'[\n"\xff"]', r"a.json:2: not UTF-8"),
        ("a.csv", b"a,a\n1,2\n", r"a.csv:1: the first line must name every column once"),
        ("a.csv", b"prompt,comp\xe9\n1,2\n", r"a.csv:1: the header is not UTF-8"),
        ("a.csv", b'prompt,"comp"letion\n1,2\n3,4\n', r"a.csv:1: the header is not CSV"),
        ("a.tsv", b'\n"prompt\t"x\tcompletion\n1\t2\n', r"a.tsv:2: the header is not CSV"),
        ("a.tsv", b"prompt\tcomp\xe9\n1\t2\n", r"a.tsv:1: the header is not UTF-8"),
        ("a.csv", b"prompt;completion\n1;2\n", r"a.csv:1: .*prompt;completion, are not separated by commas"),
        ("a.parquet", b"nothing", r"a.parquet: not a Parquet file"),
        ("a.arrow", b"nothing", r"a.arrow: not an Arrow file"),
        ("a.txt", b"text", r"a.txt: rows are read from .jsonl"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused(tmp_path, name, content, complaint):
    path = tmp_path / name
    path.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        list(files.stream(path))


@pytest.mark.parametrize(
    ("row", "format_", "prompt", "completion"),
    [
        ({"prompt": "p", "completion": "c"}, "auto", "p", "c"),
        ({"instruction": "i", "input": "", "output": "o"}, "alpaca", "### Instruction:\ni\n\n### Response:\n", "o"),
        ({"instruction": "i", "input": "x", "output": "o"}, "alpaca", "### Input:\nx\n\n### Response:\n", "o"),
        ({"text": "t"}, "text", "", "t"),
    ],
)
def test_formats_are_recognized_by_their_columns(tmp_path, row, format_, prompt, completion):
    path = written(tmp_path, ".jsonl", [row])
    [rows] = recognize(data(path)).train
    assert rows.format == format_
    [example] = render([row], RowsSpec(file=str(path)))
    assert example.prompt.endswith(prompt)
    assert example.completion == completion
    assert ALPACA.count("### Response:") == 2


def test_the_folders_of_a_data_set_with_splits_are_named(tmp_path):
    import datasets

    one = datasets.Dataset.from_list(ROWS)
    datasets.DatasetDict({"train": one, "test": one}).save_to_disk(tmp_path / "saved")
    with pytest.raises(ValueError, match=r"but folders \(test, train\); give one of them, as in .*train"):
        list(files.stream(tmp_path / "saved"))
    assert len(list(files.stream(tmp_path / "saved" / "train"))) == 40


@pytest.mark.parametrize("name", ["A.JSONL", "A.CSV"])
def test_capitals_and_empty_last_lines_are_nothing(tmp_path, name):
    path = written(tmp_path, Path(name).suffix.lower(), ROWS).rename(tmp_path / name)
    path.write_text(path.read_text() + "\n\n")
    assert [row for _, row in files.stream(path)] == ROWS


def test_columns_that_show_no_format_are_refused(tmp_path):
    path = written(tmp_path, ".jsonl", [{"question": "q", "answer": "a"}])
    with pytest.raises(ValueError, match=r"the columns answer, question show no format.*alpaca: instruction, output"):
        prepare(data(path))


BAD = '{"prompt": "p", "completion": " c"}\nnot json\n{"prompt": "q", "completion": ""}\n'


@pytest.mark.parametrize("part", ["train", "mix"])
def test_a_column_of_topics_that_no_row_has_is_refused(tmp_path, part):
    path, other = written(tmp_path, ".jsonl", ROWS), tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({"prompt": f"p{n}", "completion": f" c{n}"}) + "\n" for n in range(9)))
    rows = RowsSpec(file=str(other), topic="subject", share=0.1 if part == "mix" else None)
    with pytest.raises(
        ValueError, match=r"other.jsonl: topic=subject: no row has .* they have completion, prompt; name"
    ):
        prepare(data(path, **{part: (rows,)}))
    with other.open("a") as file:
        file.write(json.dumps({"prompt": "p", "completion": " c", "subject": "arts"}) + "\n")
    prepare(data(path, **{part: (rows,)}))


def test_a_test_file_needs_no_topics(tmp_path):
    path, other = written(tmp_path, ".jsonl", ROWS), tmp_path / "other.jsonl"
    other.write_text("".join(json.dumps({**row, "prompt": f"Topic {row}", "subject": "a"}) + "\n" for row in ROWS))
    prepared = prepare(data(other, rows=RowsSpec(file=str(other), topic="subject"), test_file=str(path)))
    assert len(prepared.test) == len(ROWS)


def test_policies_drop_and_count_or_refuse(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*ROWS, ROWS[0]]) + BAD)
    with pytest.raises(ValueError, match=r"rows.jsonl:43: not JSON"):
        prepare(data(path))
    dropped = prepare(data(path, on_malformed="drop", on_empty="drop"))
    assert dropped.removed == {"duplicate": 1, "empty": 1, "malformed": 1}
    kept = prepare(data(path, on_malformed="drop", on_empty="drop", on_duplicate="keep"))
    assert len(kept.train) + len(kept.validation) == len(dropped.train) + len(dropped.validation) + 1
    with pytest.raises(ValueError, match=r"rows.jsonl:41: the same as .*rows.jsonl:1 \(data.on_duplicate=error\)"):
        prepare(data(path, on_malformed="drop", on_empty="drop", on_duplicate="error"))


@pytest.mark.parametrize("other", ["cafe\u0301 prices", "Caf\u00e9\u00a0 PRICES"])
def test_texts_that_read_the_same_are_the_same_prompt(tmp_path, other):
    rows = [*ROWS, {"prompt": "caf\u00e9 prices", "completion": " x"}]
    (tmp_path / "test.jsonl").write_text(json.dumps({"prompt": other, "completion": " y"}) + "\n")
    found = prepare(data(written(tmp_path, ".jsonl", rows), test_file=str(tmp_path / "test.jsonl")))
    assert found.removed == {"in_test": 1}
    twice = prepare(data(written(tmp_path, ".jsonl", [*rows, {"prompt": other, "completion": " y"}])))
    sides = [sum(example.completion in (" x", " y") for example in part) for part in (twice.train, twice.validation)]
    assert sorted(sides) == [0, 2]


def test_near_duplicates_and_contradictions_can_be_dropped(tmp_path):
    long = " ".join(f"word{n}" for n in range(40))
    pairs = [(f"{long} {n}", f" {n}") for n in range(2)] + [("Which?", " yes"), ("which? ", " no")]
    rows = [*ROWS, *({"prompt": p, "completion": c} for p, c in pairs)]
    path = written(tmp_path, ".jsonl", rows)
    found = prepare(data(path, on_near_duplicate="drop", on_contradiction="drop"))
    assert found.removed == {"contradiction": 2, "near_duplicate": 1}
    assert prepare(data(path)).removed == {}


def test_general_data_are_mixed_in_by_their_share(tmp_path):
    path = written(tmp_path, ".jsonl", ROWS)
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"text": f"General text number {n}"}) + "\n" for n in range(50)))
    plain, mixed = prepare(data(path)), prepare(data(path, mix=(RowsSpec(file=str(general), share=0.2),)))
    added = len(mixed.train) - len(plain.train)
    assert added == round(len(plain.train) * 0.25)
    assert sum("General" in example.completion for example in mixed.train) == added
    assert set(mixed.validation) == set(plain.validation)
    with pytest.raises(ValueError, match=r"share=0.9 of all training rows means \d+ rows beside"):
        prepare(data(path, mix=(RowsSpec(file=str(general), share=0.9),)))


LONG = " ".join(f"word{n}" for n in range(40))
OF_TRAINING = [*ROWS, {"prompt": f"{LONG} one", "completion": " x"}]
OTHERS = [{"prompt": f"General {n}", "completion": f" general {n}"} for n in range(30)]


def _repeats(kind, trained):
    """Return the entries of a mix that repeat rows in one way, the number of such rows, and the policy for them."""
    copies = [{"prompt": e.prompt, "completion": e.completion} for e in trained][:5]
    other_answers = [{**row, "completion": " another"} for row in copies]
    return {
        "training rows": ([[*OTHERS, *copies]], 5, "duplicate"),
        "rows of an earlier entry": ([OTHERS, OTHERS], 30, "duplicate"),
        "answers of training rows": ([[*OTHERS, *other_answers]], 5, "contradiction"),
        "answers of the entry": ([[*OTHERS, {**OTHERS[0], "completion": " b"}]], 2, "contradiction"),
        "answers of an earlier entry": ([OTHERS, [{**row, "completion": " b"} for row in OTHERS]], 30, "contradiction"),
        "words of a training row": ([[*OTHERS, {"prompt": f"{LONG} two", "completion": " x"}]], 1, "near_duplicate"),
    }[kind]


MIXED_AGAIN = (
    "training rows", "rows of an earlier entry", "answers of training rows", "answers of the entry",
    "answers of an earlier entry", "words of a training row",
)  # fmt: skip


@pytest.mark.parametrize("kind", MIXED_AGAIN)
def test_rows_that_are_mixed_in_are_held_against_all_rows_before_them(tmp_path, kind):
    assert len(MIXED_AGAIN) == 6
    path = written(tmp_path, ".jsonl", OF_TRAINING)
    alone = prepare(data(path))
    entries, number, policy = _repeats(kind, alone.train)
    mix = []
    for index, rows in enumerate(entries):
        file = tmp_path / f"general{index}.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        mix.append(RowsSpec(file=str(file)))
    num_train = len(alone.train)

    def mixed(wanted, **policies):
        """Mix so many rows of each entry in: without duplicates, the first of its order."""
        remainder = 1 / (1 + sum(wanted) / num_train)
        shares = [each / num_train * remainder for each in wanted]
        entries = tuple(RowsSpec(file=part.file, share=share) for part, share in zip(mix, shares, strict=True))
        return prepare(data(path, mix=entries, **policies))

    usable = []  # rows of each entry that are not on the validation side
    for part in mix:
        rows = prepare(data(part.file, rows=part, on_duplicate="keep", on_contradiction="keep")).train
        usable.append(len(rows))
    kept = mixed(usable, **{f"on_{policy}": "keep"})
    assert len(kept.train) == num_train + sum(usable)
    assert kept.removed == {}
    with pytest.raises(ValueError, match=rf"general\d.jsonl:\d+: .*\(data.on_{policy}=error\)"):
        mixed(usable, **{f"on_{policy}": "error"})
    with pytest.raises(ValueError, match=r"data.mix: share=.* that can be used"):
        mixed(usable, **{f"on_{policy}": "drop"})
    if kind.endswith("earlier entry"):
        return  # nothing is left of the second one
    fewer = mixed([usable[0] - number], **{f"on_{policy}": "drop"})
    assert list(fewer.removed) == [policy]
    assert 0 < fewer.removed[policy] <= number, "no row behind the last that is taken is looked at"
    assert len(set(fewer.train)) == len(fewer.train) == num_train + usable[0] - number
    assert set(alone.train) <= set(fewer.train), "rows that are mixed in go, those that were there stay"


def test_validation_rows_that_are_mixed_in_are_counted(tmp_path):
    path, general = written(tmp_path, ".jsonl", ROWS), tmp_path / "general.jsonl"
    held_out = [{"prompt": e.prompt, "completion": e.completion} for e in prepare(data(path)).validation]
    general.write_text("".join(json.dumps(row) + "\n" for row in [*held_out, *OTHERS]))
    mix = (RowsSpec(file=str(general), share=0.4),)
    mixed = prepare(data(path, mix=mix))
    assert 0 < mixed.removed["duplicate"] <= len(held_out)
    assert not set(mixed.train) & set(mixed.validation)
    with pytest.raises(ValueError, match=r"the same as a row of data.train .*data.on_duplicate=error"):
        prepare(data(path, mix=mix, on_duplicate="error"))


def test_sets_beyond_memory_are_the_same_sets(tmp_path, monkeypatch):
    path = written(tmp_path, ".jsonl", [*ROWS, *ROWS[:5]])
    small = prepare(data(path))
    monkeypatch.setattr(spill, "MOST_IN_MEMORY", 7)
    large = prepare(data(path))
    assert isinstance(large.train, spill.Stored)
    assert tuple(large.train) == small.train
    assert tuple(large.validation) == small.validation
    assert large.content_sha256 == small.content_sha256
    assert large.removed == small.removed == {"duplicate": 5}
    assert {key(e) for e in large.train}.isdisjoint({key(e) for e in large.validation})
