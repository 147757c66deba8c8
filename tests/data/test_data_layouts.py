"""Folders whose README declares the files of each split, as on the Hub, and folders that can be read in two ways."""

import json
import os

import pytest

from harness.data import files


def into(folder, **contents):
    for name, text in contents.items():
        path = folder / name.replace("__", "/").replace("_jsonl", ".jsonl")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"text": text}) + "\n")


def declare(folder, data_files, name="default"):
    lines = [
        "---",
        "license: mit",
        "configs:",
        f"- config_name: {name}",
        f"  data_files: {json.dumps(data_files)}",
        "---",
    ]
    (folder / "README.md").write_text("\n".join([*lines, "# A data set", ""]))


SPLITS = [{"split": "train", "path": "a*.jsonl"}, {"split": "test", "path": ["more/b.jsonl", "c.jsonl"]}]


def test_a_readme_tells_the_splits(tmp_path):
    into(tmp_path, a1_jsonl="a1", a2_jsonl="a2", more__b_jsonl="b", c_jsonl="c", stray_jsonl="s")
    declare(tmp_path, SPLITS)
    with pytest.raises(ValueError, match=r"holds the splits test, train; name one, as in data.train.0.split=train"):
        files.parts(tmp_path)
    assert [path.name for path in files.parts(tmp_path, "train")] == ["a1.jsonl", "a2.jsonl"]
    assert [path.name for path in files.parts(tmp_path, "test")] == ["b.jsonl", "c.jsonl"]
    with pytest.raises(ValueError, match=r"no files of split=validation; the folder holds test, train"):
        files.parts(tmp_path, "validation")


@pytest.mark.parametrize("declared", ["a*.jsonl", ["a1.jsonl", "a2.jsonl"], [{"split": "train", "path": "a*.jsonl"}]])
def test_files_that_a_readme_leaves_out_are_not_trained(tmp_path, declared):
    into(tmp_path, a1_jsonl="a1", a2_jsonl="a2", heldback_jsonl="t")
    declare(tmp_path, declared)
    assert [path.name for path in files.parts(tmp_path)] == ["a1.jsonl", "a2.jsonl"]


def test_a_readme_with_several_configurations_asks_for_files(tmp_path):
    into(tmp_path, a_jsonl="a", b_jsonl="b")
    text = "---\nconfigs:\n- config_name: {}\n  data_files: a.jsonl\n- config_name: {}\n  data_files: b.jsonl\n---\n"
    (tmp_path / "README.md").write_text(text.format("main", "socratic"))
    with pytest.raises(
        ValueError, match=r"README.md declares the configurations main, socratic; give the files of one"
    ):
        files.parts(tmp_path)


@pytest.mark.parametrize(
    "missing", ["gone.jsonl", "../outside.jsonl", "/etc/*.jsonl", "", 7, {"a": ["b"]}, [["a.jsonl"]]]
)
def test_a_readme_leads_to_no_file_that_is_not_in_the_folder(tmp_path, missing):
    into(tmp_path / "rows", a_jsonl="a")
    into(tmp_path, outside_jsonl="o")
    declare(tmp_path / "rows", [{"split": "train", "path": missing}])
    with pytest.raises(ValueError, match=r"README.md: it declares .* which is not in the folder"):
        files.parts(tmp_path / "rows")


@pytest.mark.parametrize(
    "text",
    [
        "# no header\n",
        "---\nlicense: mit\n---\n",
        "---\n: [\n---\n",
        "---\nconfigs: 7\n---\n",
        "---\nconfigs: []\n---\n",
        "\xff---",
    ],
)
def test_a_readme_that_declares_nothing_changes_nothing(tmp_path, text):
    into(tmp_path, a_jsonl="a")
    (tmp_path / "README.md").write_text(text, encoding="latin-1")
    assert [path.name for path in files.parts(tmp_path)] == ["a.jsonl"]


@pytest.mark.timeout(20)
@pytest.mark.parametrize("name", ["README.md", "state.json"])
def test_a_description_that_is_no_file_is_not_waited_for(tmp_path, name):
    into(tmp_path, a_jsonl="a")
    os.mkfifo(tmp_path / name)
    assert [path.name for path in files.parts(tmp_path)] == ["a.jsonl"]


def test_a_split_in_a_file_and_in_a_folder_is_refused(tmp_path):
    into(tmp_path, train_jsonl="a", train__more_jsonl="b", test_jsonl="t")
    with pytest.raises(ValueError, match=r"split=train is both the folder train and train.jsonl"):
        files.parts(tmp_path, "train")


def test_a_split_that_is_not_there_is_answered_with_those_that_are(tmp_path):
    into(tmp_path, train__a_jsonl="a", test__b_jsonl="b")
    with pytest.raises(ValueError, match=r"no files of split=validation; the folder holds test, train"):
        files.parts(tmp_path, "validation")


@pytest.mark.parametrize(
    ("train", "test"),
    [
        ("myTrainSet", "myTestSet"), ("QATrain", "QATest"), ("gsmtrain", "gsmtest"), ("trainqa", "devqa"),
        ("GSMTRAIN", "GSMTEST"), ("gsmtrain.jsonl.gz", "gsmheldout.jsonl.gz"),
    ],
)  # fmt: skip
def test_splits_in_names_without_a_sign_between_are_told_apart(train, test, tmp_path):
    for name in (train, test):
        (tmp_path / (name if "." in name else f"{name}.jsonl")).write_text('{"text": "a"}\n')
    with pytest.raises(ValueError, match="the folder holds the splits"):
        files.parts(tmp_path)
    [path] = files.parts(tmp_path, "train")
    assert path.name.startswith(train)


@pytest.mark.parametrize("names", [("latest", "contest"), ("restrain", "greatest"), ("gsmtest", "mathtest")])
def test_words_that_end_like_a_split_name_none(names, tmp_path):
    for name in names:
        (tmp_path / f"{name}.jsonl").write_text('{"text": "a"}\n')
    assert len(files.parts(tmp_path)) == 2
