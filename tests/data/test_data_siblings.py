"""Rows as people have them: each says something that an easy reader passes over."""

import json

import pytest

from harness.data import files
from harness.data.chat import Dialogue
from harness.data.files import RowError
from harness.data.format import BESIDE_TEXT, MEANINGFUL, Renderer, recognized, render
from harness.data.prepare import prepare
from harness.records.settings import DataSpec, RowsSpec

TEMPLATE = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}"
    "{% if add_generation_prompt %}<assistant>{% endif %}"
)
PLAIN = {"prompt": "Say it.", "completion": " yes"}
CHAT = {"messages": [{"role": "user", "content": "Say it."}, {"role": "assistant", "content": "yes"}]}


@pytest.fixture(scope="module")
def tokens(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def rendered(row, **spec):
    return render([row], RowsSpec(file="rows.jsonl", **spec))[0]


def as_chat(tokens, row, template=TEMPLATE, **spec):
    rows = recognized(RowsSpec(file="rows.jsonl", **spec), row)
    return Renderer(rows, Dialogue(tokens, template), as_chat=True)(row, 1)


# columns


@pytest.mark.parametrize("column", ["Context", "LABEL", "System Prompt", "chain-of-thought", " weight "])
def test_capitals_spaces_and_hyphens_hide_no_column(column):
    with pytest.raises(RowError, match=f"leaves {column} out"):
        rendered({**PLAIN, column: "SAID"})


@pytest.mark.parametrize("column", BESIDE_TEXT)
def test_a_text_beside_its_answer_is_not_the_whole_row(column):
    with pytest.raises(RowError, match=f"text leaves {column} out"):
        rendered({"text": "A line.", column: "SAID"})
    if column not in PLAIN:
        assert rendered({**PLAIN, column: "SAID"}) == rendered(PLAIN)


@pytest.mark.parametrize("column", ["id", "source", "url", "title", "category", "language", "timestamp", "score"])
@pytest.mark.parametrize("row", [PLAIN, {"text": "A line."}, {"instruction": "Say.", "output": "yes"}], ids=str)
def test_a_column_about_the_row_is_left_out(column, row):
    assert rendered({**row, column: "SAID"}) == rendered(row)


def test_a_row_of_another_split_is_refused():
    assert rendered({**PLAIN, "split": "train"}) == rendered(PLAIN)
    for other in ("test", "validation", "dev"):
        with pytest.raises(RowError, match="leaves split out"):
            rendered({**PLAIN, "split": other})


@pytest.mark.parametrize("column", ["system", "system_prompt", "system_message"])
def test_a_system_column_is_written_whatever_the_format(tokens, column):
    for row in (PLAIN, CHAT, {"instruction": "Say it.", "output": "yes"}):
        written = as_chat(tokens, {**row, column: "Be brief."})
        assert written.prompt.startswith("<system>Be brief.</s><user>Say it.")
        assert as_chat(tokens, {**row, column: "Be brief."}, ignore=(column,)) == as_chat(tokens, row)


@pytest.mark.parametrize("value", [{"text": "Be brief."}, ["Be brief."], 7])
@pytest.mark.parametrize("row", [PLAIN, CHAT], ids=["prompt", "chat"])
def test_a_system_prompt_that_is_no_text_is_refused(tokens, row, value):
    with pytest.raises(RowError, match=r"rows\.jsonl:1: system must be text"):
        as_chat(tokens, {**row, "system": value})


def test_two_system_prompts_are_refused(tokens):
    with pytest.raises(RowError, match="system and system_prompt differ"):
        as_chat(tokens, {**PLAIN, "system": "a", "system_prompt": "b"})
    own = {"messages": [{"role": "system", "content": "Be long."}, *CHAT["messages"]]}
    with pytest.raises(RowError, match="that of its first message differ"):
        as_chat(tokens, {**own, "system": "Be brief."})
    assert as_chat(tokens, {**own, "system": "Be long."}) == as_chat(tokens, own)


def test_a_prompt_beside_messages_is_not_called_used(tokens):
    row = {**CHAT, "prompt": "Say it.", "prompt_id": "x"}
    renderer = Renderer(recognized(RowsSpec(file="rows.jsonl"), row), Dialogue(tokens, TEMPLATE))
    assert (renderer.reading(row).used, renderer.reading(row).unused) == (("messages",), ("prompt", "prompt_id"))


def test_the_lists_are_these():
    assert (len(MEANINGFUL), len(BESIDE_TEXT)) == (47, 12)


# values


@pytest.mark.parametrize("value", [None, {"x": 1}, ["x"], b"x", float("nan"), True])
@pytest.mark.parametrize("template", ["{{shown}}", "{{ 'Q: ' ~ shown }}", "{{ [shown] | join(', ') }}"])
def test_no_way_of_a_template_prints_what_is_no_text(template, value):
    with pytest.raises(RowError, match="a value is"):
        rendered({"shown": value, "a": "x"}, prompt=template, completion=" {{a}}")


def test_what_is_converted_on_purpose_is_written():
    row = {"yes": True, "n": 7, "parts": [{"values": "u"}, {"values": "v"}], "self": "me", "a": "x"}
    example = rendered(
        row,
        prompt="{{yes|string}} {{n ~ '!'}} {{parts|join('-', attribute='values')}} {{ 'on' if yes else 'off' }}",
        completion=" {{a}}",
    )
    assert example.prompt == "True 7! u-v on"


@pytest.mark.parametrize("escape", [r"\n", r"\t", r"\r", r"\u2192", r"\x41"])
def test_no_escape_is_trained_as_letters(escape):
    with pytest.raises(ValueError, match="a backslash and a letter"):
        rendered({"q": "a", "a": "b"}, prompt="{{q}}" + escape, completion=" {{a}}")


# special tokens in messages


@pytest.mark.parametrize("content", ["yes</s>", "</s>yes", "a </s> b"])
def test_a_message_with_the_templates_own_tokens_is_refused(tokens, content):
    for number in (1, 2):
        messages = [dict(message) for message in CHAT["messages"]]
        messages[number - 1]["content"] = content
        with pytest.raises(RowError, match=rf"rows.jsonl:1: message {number} holds </s>, which the chat template"):
            as_chat(tokens, {"messages": messages})
    with pytest.raises(RowError, match="holds </s>"):
        as_chat(tokens, {"prompt": "Say it.", "completion": content})


def test_a_token_that_the_template_does_not_write_is_text(tokens):
    assert as_chat(tokens, {"prompt": "<s>struck", "completion": "yes"}).completion == "yes"


def test_what_a_template_puts_before_answers_is_said(tokens):
    def header(template):
        dialogue = Dialogue(tokens, template)
        Renderer(RowsSpec(file="rows.jsonl", format="messages"), dialogue)(CHAT, 1)
        [header] = dialogue.headers.values()
        return header

    assert header(TEMPLATE) == ""
    thinks = TEMPLATE.replace("{{ m.content }}", "{% if m.role == 'assistant' %}<t></t>{% endif %}{{ m.content }}")
    assert (
        "writes '<t></t>' before the answers, behind its generation prompt, as in rows.jsonl:1: it is seen"
        in header(thinks)
    )
    assert "writes '<assistant>' before the answers" in header(TEMPLATE.partition("{% if add")[0])
    opens = TEMPLATE.replace("<assistant>{% endif", "<assistant><t>{% endif")
    assert "and its generation prompt, with which" in header(opens)


def test_what_a_template_puts_before_some_answers_is_said_with_a_row(tokens):
    """The first chat shows nothing; a later one does, and it is said once, however many follow."""
    header = "{% if m.role == 'assistant' and 'think' in messages[0].content %}<t></t>{% endif %}"
    dialogue = Dialogue(tokens, TEMPLATE.replace("{{ m.content }}", header + "{{ m.content }}"))
    make = Renderer(RowsSpec(file="rows.jsonl", format="messages"), dialogue)
    for number, question in enumerate(["Say it.", "Do think.", "Say it 2 times.", "Please think."], start=1):
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": "yes"}]
        example = make({"messages": turns}, number)
        assert example.prompt.endswith("<t></t>") == ("think" in question), "generation begins where training does"
    [said] = filter(None, dialogue.headers.values())
    assert "'<t></t>' before the answers, behind its generation prompt, as in rows.jsonl:2" in said


PREFACES = [
    ("{% if messages[0].role != 'system' %}<system>Be kind.</s>{% endif %}", "<system>Be kind."),
    ("<s>", ""),
    ("<s>Today is Monday.\n", "<s>Today is Monday.\n"),
    ("", ""),
]


@pytest.mark.parametrize(("written", "said"), PREFACES)
def test_a_system_prompt_of_the_templates_own_is_named(tokens, written, said):
    dialogue = Dialogue(tokens, written + TEMPLATE)
    make = Renderer(RowsSpec(file="rows.jsonl", format="messages"), dialogue)
    own = {"messages": [{"role": "system", "content": "Be brief."}, *CHAT["messages"]]}
    make(own, 1)
    assert dialogue.preface is None
    make(CHAT, 2)
    assert dialogue.preface == said


def marked(**marks):
    turns = [{"role": "user", "content": "One?"}, {"role": "assistant", "content": "first", **marks}]
    return {"messages": [*turns, *CHAT["messages"]]}


@pytest.mark.parametrize("name", ["weight", "train", "training", "loss", "trainable", "train_on_turn"])
@pytest.mark.parametrize("value", [0, False])
def test_an_answer_that_is_marked_is_not_learned_whatever_the_mark_is_called(tokens, name, value):
    example = as_chat(tokens, marked(**{name: value}))
    assert (len(example.turns), len(example.muted)) == (0, 1)
    assert len(as_chat(tokens, marked(**{name: 1})).turns) == 1
    for other in (0.5, "0", "false"):
        with pytest.raises(RowError, match=f"message 2: {name}="):
            as_chat(tokens, marked(**{name: other}))


@pytest.mark.parametrize("name", ["mask", "masked", "loss_mask", "loss_scale", "loss_weight", "train_detail"])
def test_a_mark_that_may_mean_either_is_refused(tokens, name):
    with pytest.raises(RowError, match=f"message 2 has {name}; what is learned is said by weight: 0"):
        as_chat(tokens, marked(**{name: 0}))


def test_what_messages_say_beside_their_text_is_named(tokens):
    dialogue = Dialogue(tokens, TEMPLATE)
    make = Renderer(RowsSpec(file="rows.jsonl", format="messages"), dialogue)
    for number in (1, 2):
        make(marked(name="Bob", refusal=None, audio={"id": 1}, note=""), number)
    assert dialogue.changes == {
        "leaves out name of": (2, "rows.jsonl:1, message 2"),
        "leaves out audio of": (2, "rows.jsonl:1, message 2"),
    }


# folders


def rows_into(path, number=4):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps({"text": f"{path.stem} {i}"}) + "\n" for i in range(number)))


NAMES = [
    ("train_sft-00000-of-00001.jsonl", "test_sft-00000-of-00001.jsonl", "train_sft"),
    ("train_sft-00000-of-00001.jsonl", "train_gen-00000-of-00001.jsonl", "train_sft"),
    ("train-00000-of-00001.jsonl", "unsupervised-00000-of-00001.jsonl", "train"),
    ("trainset.jsonl", "testset.jsonl", "train"),
    ("train_data.jsonl", "evaluation_data.jsonl", "train"),
    ("training.jsonl", "testing.jsonl", "train"),
    ("train.jsonl", "heldout.jsonl", "train"),
    ("gsm8k-train-00000-of-00001.jsonl", "gsm8k-test-00000-of-00001.jsonl", "train"),
]


@pytest.mark.parametrize("names", NAMES, ids=lambda names: f"{names[0]} {names[1]}")
def test_splits_are_told_by_the_names_that_data_sets_have(tmp_path, names):
    first, second, split = names
    for name in (first, second):
        rows_into(tmp_path / name)
    with pytest.raises(ValueError, match=r"holds the splits .*name one, as in data.train.0.split="):
        files.parts(tmp_path)
    assert files.parts(tmp_path, split) == [tmp_path / first]


def test_a_missing_shard_is_named(tmp_path):
    for number in (0, 2):
        rows_into(tmp_path / f"train-0000{number}-of-00004.jsonl")
    with pytest.raises(ValueError, match=r"2 of 4 files of train are missing \(train-00001-of-00004, train-00003-of"):
        files.parts(tmp_path)
    for number in (1, 3):
        rows_into(tmp_path / f"train-0000{number}-of-00004.jsonl")
    assert len(files.parts(tmp_path)) == 4


def test_hidden_files_hold_no_rows(tmp_path):
    rows_into(tmp_path / "train.jsonl")
    for name in ("._train.jsonl", ".cached.parquet"):
        (tmp_path / name).write_bytes(b"\x00\x05")
    assert files.parts(tmp_path) == [tmp_path / "train.jsonl"]


def test_a_split_of_a_folder_is_hashed_read_and_tested_apart(tmp_path, compose, tiny_overrides):
    from harness.config import config
    from harness.run import inputs

    rows_into(tmp_path / "rows" / "train.jsonl", 40)
    rows_into(tmp_path / "rows" / "test.jsonl", 5)
    rows_into(tmp_path / "more" / "test.jsonl", 6)
    words = [f"data.file={tmp_path / 'rows'}", "data.train.0.split=train"]

    def resolved(*extra):
        return inputs.resolve(config.build(compose(*tiny_overrides, *words, *extra))).data

    spec = resolved(f"data.test_file={tmp_path / 'more'}")
    prepared = prepare(spec)
    assert (len(prepared.train) + len(prepared.validation), len(prepared.test)) == (40, 6)
    assert all(example.completion.startswith("train") for example in prepared.train)
    before = resolved().content
    rows_into(tmp_path / "rows" / "test.jsonl", 7)
    assert resolved().content == before
    with pytest.raises(ValueError, match="holds the splits test, train"):
        resolved(f"data.test_file={tmp_path / 'rows'}")


# files


@pytest.mark.parametrize("where", ["flipped", "truncated"])
@pytest.mark.parametrize("kind", ["parquet", "arrow"])
def test_a_damaged_table_is_named(tmp_path, kind, where):
    import pyarrow
    from pyarrow import parquet

    table = pyarrow.table({"prompt": [f"p{i}" * 10 for i in range(5000)], "completion": ["c"] * 5000})
    path = tmp_path / f"rows.{kind}"
    if kind == "parquet":
        parquet.write_table(table, path)
    else:
        options = pyarrow.ipc.IpcWriteOptions(compression="lz4")
        with pyarrow.ipc.new_file(path, table.schema, options=options) as writer:
            writer.write_table(table)
    content = bytearray(path.read_bytes())
    if where == "flipped":
        content[1000:1100] = bytes(byte ^ 0xFF for byte in content[1000:1100])
    path.write_bytes(content if where == "flipped" else content[: len(content) // 2])
    with pytest.raises(ValueError, match=rf"rows\.{kind}: not an? "):
        list(files.stream(path))


def test_a_column_that_is_there_twice_is_refused(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "a", "prompt": "b", "completion": "c"}\n')
    [(_, good), (_, bad)] = files.stream(path)
    assert good == {"prompt": "a", "completion": "b"}
    assert str(bad).startswith(f"{path}:2: not JSON ('prompt' is there twice)")


# few prompts


@pytest.mark.parametrize(("prompts", "have"), [(1, "one prompt"), (2, "2 prompts"), (3, "3 prompts")])
def test_rows_of_a_few_prompts_are_divided_by_row_on_request(tmp_path, prompts, have):
    path = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Write {i % prompts}.", "output": f"Haiku {i}"} for i in range(40)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    spec = DataSpec(name="file", source="package", train=(RowsSpec(file=str(path)),), validation_fraction=0.02)
    with pytest.raises(ValueError, match=rf"all 40 rows have {have}, and rows of one prompt .*data.split_by=row"):
        prepare(spec)


def test_prompts_of_one_row_each_are_not_divided_by_row(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_text('{"prompt": "a", "completion": "b"}\n{"prompt": "c", "completion": "d"}\n')
    spec = DataSpec(name="file", source="package", train=(RowsSpec(file=str(path)),), validation_fraction=0.01)
    with pytest.raises(ValueError, match="give more rows"):
        prepare(spec)
