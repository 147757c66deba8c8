"""What a row says is used or refused by name: columns, weights, nested values, splits of a folder."""

import dataclasses
import datetime
import json

import pytest

from harness.data import files
from harness.data.chat import Dialogue
from harness.data.encode import encode
from harness.data.files import RowError
from harness.data.format import MEANINGFUL, Renderer, recognized, render
from harness.data.prepare import prepare
from harness.records.settings import DataSpec, RowsSpec

BASES = {
    "prompt_completion": {"prompt": "Say it.", "completion": " yes"},
    "alpaca": {"instruction": "Say it.", "output": "yes"},
    "text": {"text": "A line."},
}
TEMPLATE = "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"


@pytest.fixture(scope="module")
def tokens(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def made(row, **spec):
    rows = RowsSpec(file="rows.jsonl", **spec)
    return render([row], rows)[0]


@pytest.mark.parametrize("column", MEANINGFUL)
@pytest.mark.parametrize("kind", BASES)
def test_a_column_with_a_meaning_is_used_or_refused_by_name(kind, column):
    row = {**BASES[kind], column: "SAID", "id": 7}
    if kind == "alpaca" and column in ("instruction", "input"):
        assert "SAID" in made(row).prompt
        return
    row["split"] = "test" if column == "split" else "train"
    with pytest.raises(RowError, match=rf"rows.jsonl:1: .* leaves {column} out; .*ignore=\[{column}\]"):
        made(row)
    assert made(row, ignore=(column,)) == made(BASES[kind])
    assert made({**row, column: None}) == made(BASES[kind])


def test_whoever_writes_templates_has_chosen_the_columns():
    row = {"question": "Is it?", "answer": "yes", "label": "x", "system": "Be brief."}
    example = made(row, prompt="{{question}}", completion=" {{answer}}")
    assert (example.prompt, example.completion) == ("Is it?", " yes")


@pytest.mark.parametrize("column", ["system", "system_prompt"])
@pytest.mark.parametrize("kind", ["prompt_completion", "alpaca"])
def test_a_chat_template_writes_the_system_column(tokens, kind, column):
    row = {**BASES[kind], column: "Answer like a pirate."}
    spec = recognized(RowsSpec(file="rows.jsonl"), row)
    example = Renderer(spec, Dialogue(tokens, TEMPLATE), as_chat=True)(row, 1)
    assert example.prompt.startswith("<system>Answer like a pirate.</s><user>Say it.</s>")


def test_a_chat_holds_values_as_they_are_given(tokens):
    row = {"prompt": "  x\n", "completion": " - y "}
    spec = recognized(RowsSpec(file="rows.jsonl"), row)
    example = Renderer(spec, Dialogue(tokens, TEMPLATE), as_chat=True)(row, 1)
    assert (example.prompt, example.completion) == ("<user>  x\n</s><assistant>", " - y ")


def chat(**mark):
    return [
        {"role": "user", "content": "Name it."},
        {"role": "assistant", "content": "WRONG", **mark},
        {"role": "user", "content": "Again."},
        {"role": "assistant", "content": "RIGHT"},
    ]


def learnt(tokens, messages, loss_on):
    spec = RowsSpec(file="chats.jsonl", format="messages")
    example = Renderer(spec, Dialogue(tokens, TEMPLATE))({"messages": messages}, 1)
    [row], _ = encode([example], tokens, 1000, loss_on, add_eos=True)
    return tokens.decode([i for i, mark in zip(row["input_ids"], row["completion_mask"], strict=True) if mark])


@pytest.mark.parametrize("mark", [{"weight": 0}, {"weight": 0.0}, {"train": False}, {"training": False}], ids=str)
@pytest.mark.parametrize("loss_on", ["assistant", "all", "completion"])
def test_an_answer_of_no_weight_is_never_learnt(tokens, mark, loss_on):
    assert "WRONG" not in learnt(tokens, chat(**mark), loss_on)
    assert "RIGHT" in learnt(tokens, chat(**mark), loss_on)
    assert ("WRONG" in learnt(tokens, chat(weight=1), loss_on)) == (loss_on != "completion")


@pytest.mark.parametrize(
    ("message", "says"),
    [
        ({"role": "assistant", "content": "a", "weight": 0.5}, "weight=0.5; it must be 0"),
        ({"role": "assistant", "content": "a", "weight": "0"}, "weight='0'; it must be 0"),
        ({"role": "user", "content": "a", "train": True}, "answers of the assistant are learned"),
        ({"role": "assistant", "content": "a", "reasoning_content": "hm"}, "reasoning_content beside its text"),
        ({"role": "assistant", "content": "a", "thinking": "hm"}, "thinking beside its text"),
    ],
)
def test_marks_and_thoughts_that_cannot_be_used_are_refused(tokens, message, says):
    with pytest.raises(RowError, match=f"chats.jsonl:1: message 1.*{says}"):
        learnt(tokens, [message, *chat()], "assistant")
    with pytest.raises(RowError, match="the last answer has weight 0"):
        learnt(tokens, [*chat()[:-1], {"role": "assistant", "content": "a", "weight": 0}], "assistant")


@pytest.mark.parametrize("name", ["values", "items", "keys", "get", "pop", "copy", "update"])
def test_a_nested_column_called_like_a_method_is_the_column(name):
    row = {"parcel": {name: "7 plums"}, "note": "Packed."}
    assert made(row, prompt=f"{{{{parcel.{name}}}}}", completion=" {{note}}").prompt == "7 plums"
    with pytest.raises(RowError, match=r"rows.jsonl:1: template .* is no text but a builtin"):
        made({"parcel": {}, "note": "x"}, prompt=f"{{{{parcel.{name}}}}}", completion=" {{note}}")


@pytest.mark.parametrize(
    "value",
    [b"x", ["x"], {"x": 1}, datetime.date(2024, 1, 1), datetime.timedelta(1), float("nan"), float("inf"), None, {1}],
)
def test_a_value_that_is_no_text_is_refused_with_row_and_column(value):
    with pytest.raises(RowError, match=r"rows.jsonl:1: template '\{\{shown\}\}'"):
        made({"shown": value, "answer": "x"}, prompt="{{shown}}", completion=" {{answer}}")


@pytest.mark.parametrize("escape", [r"\n", r"\t", r"\n\n"])
def test_an_escape_that_a_shell_has_left_is_not_trained_as_two_letters(escape):
    with pytest.raises(ValueError, match="a backslash and a letter"):
        made({"q": "a", "a": "b"}, prompt="{{q}}" + escape + "Answer:", completion=" {{a}}")
    written = made({"q": "a", "a": "b"}, prompt="{{q}}{{ '" + escape + "' }}Answer:", completion=" {{a}}")
    assert written.prompt == "a" + escape.encode().decode("unicode_escape") + "Answer:"
    assert made({"q": r"a\nb", "a": "b"}, prompt="{{q}}", completion=" {{a}}").prompt == r"a\nb"


def rows_into(path, number):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"{path.stem} {i}"}) + "\n" for i in range(number)))


NAMES = [
    ("train-00000-of-00001.jsonl", "test-00000-of-00001.jsonl"),
    ("train.jsonl", "validation.jsonl"),
    ("data_train.jsonl", "data_dev.jsonl"),
    ("train-00000-of-00001-a1b2.jsonl", "eval-00000-of-00001-c3.jsonl"),
    ("TRAIN.jsonl", "Test.jsonl"),
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: names[0])
def test_a_folder_of_several_splits_is_never_read_as_one(tmp_path, names):
    for name in names:
        rows_into(tmp_path / name, 3)
    with pytest.raises(ValueError, match=r"holds the splits .*train.*split=train"):
        list(files.stream(tmp_path))
    assert files.parts(tmp_path, "train") == [tmp_path / names[0]]
    with pytest.raises(ValueError, match="no files of split=nosuch"):
        files.parts(tmp_path, "nosuch")


def test_a_folder_of_one_split_or_of_none_is_read_whole(tmp_path):
    for name in ("train-00000-of-00002.jsonl", "train-00001-of-00002.jsonl"):
        rows_into(tmp_path / "one" / name, 2)
    for name in ("a.jsonl", "trained.jsonl", "latest.jsonl"):
        rows_into(tmp_path / "none" / name, 2)
    assert len(list(files.stream(tmp_path / "one"))) == 4
    assert len(list(files.stream(tmp_path / "none"))) == 6
    rows_into(tmp_path / "mixed" / "train.jsonl", 2)
    rows_into(tmp_path / "mixed" / "more.jsonl", 2)
    with pytest.raises(ValueError, match=r"the splits train and more.jsonl besides"):
        files.parts(tmp_path / "mixed")


def test_what_save_to_disk_wrote_is_read_by_its_state(tmp_path):
    import datasets

    data = datasets.DatasetDict(
        {name: datasets.Dataset.from_list([{"text": f"{name} {i}"} for i in range(4)]) for name in ("train", "test")}
    )
    data.save_to_disk(tmp_path)
    (tmp_path / "train" / "cache-0123456789abcdef.arrow").write_bytes(
        next((tmp_path / "test").glob("*.arrow")).read_bytes()
    )
    texts = [row["text"] for _, row in files.stream(tmp_path / "train")]
    assert texts == [f"train {i}" for i in range(4)]
    assert [row["text"] for _, row in files.stream(tmp_path, "test")] == [f"test {i}" for i in range(4)]
    with pytest.raises(ValueError, match=r"but folders .*as in .*train"):
        files.parts(tmp_path)
    (tmp_path / "train" / "state.json").write_text('{"_data_files": [{"filename": "gone.arrow"}]}')
    with pytest.raises(ValueError, match=r"it names gone.arrow"):
        files.parts(tmp_path / "train")


def test_one_prompt_for_all_rows_is_divided_by_row_on_request(tmp_path):
    path = tmp_path / "haiku.jsonl"
    path.write_text("".join(json.dumps({"instruction": "Write.", "output": f"Haiku {i}"}) + "\n" for i in range(40)))
    spec = DataSpec(name="file", source="package", train=(RowsSpec(file=str(path)),), validation_fraction=0.2)
    with pytest.raises(ValueError, match=r"all 40 rows have one prompt.*data.split_by=row"):
        prepare(spec)
    divided = prepare(dataclasses.replace(spec, split_by="row"))
    assert len(divided.train) + len(divided.validation) == 40
    assert 3 <= len(divided.validation) <= 15


def test_a_gzip_file_damaged_in_its_middle_is_named(tmp_path):
    import gzip

    path = tmp_path / "rows.jsonl.gz"
    rows = "".join(json.dumps({"text": f"{i * 7919 % 1009} {'x' * (i % 50)}"}) + "\n" for i in range(3000))
    content = bytearray(gzip.compress(rows.encode()))
    for place in range(len(content) // 2, len(content) // 2 + 60):
        content[place] ^= 0xFF
    path.write_bytes(bytes(content))
    with pytest.raises(ValueError, match=r"rows.jsonl.gz: a damaged gzip file"):
        list(files.stream(path))
