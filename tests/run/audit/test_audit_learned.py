"""The check shows what is learned: the first rows with each token's fate, the columns, and what a template changes."""

import dataclasses
import json

import pytest
from rich.console import Console
from transformers import AutoTokenizer

from harness.data.prepare import prepare
from harness.records.data_check import SourceFormat
from harness.records.settings import DataSpec, RowsSpec
from harness.report.pages import data_card
from harness.run.audit import learned

PLAIN = [{"prompt": f"What is {n} - {n + 2}?\nAnswer:", "completion": f" -2 of {n}", "id": n} for n in range(40)]
ASKS = "{% if add_generation_prompt %}<assistant>{% endif %}"
TRIMS = "{% for m in messages %}<{{ m.role }}>{{ m.content | trim }}</s>{% endfor %}" + ASKS
DROPS = "{% for m in messages if m.role != 'system' %}<{{ m.role }}>{{ m.content }}</s>{% endfor %}" + ASKS


@pytest.fixture(scope="module")
def tokenizer(tiny_model):
    return AutoTokenizer.from_pretrained(tiny_model)


@pytest.fixture
def prepared(tmp_path, tokenizer):
    def make(rows, template=None, **spec):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        if template is not None:
            (tmp_path / "chat.jinja").write_text(template)
            spec["template"] = str(tmp_path / "chat.jinja")
        rows_spec = RowsSpec(file=str(tmp_path / "rows.jsonl"))
        data = DataSpec(name="rows", source="path", train=(rows_spec,), validation_fraction=0.1, **spec)
        return prepare(data, tokenizer)

    return make


def test_the_first_rows_are_shown_as_they_are_trained(prepared, tokenizer):
    result = prepared(PLAIN)
    rows = learned.first_rows(result, tokenizer, "completion")
    assert len(rows) == learned.ROWS == 3
    numbers = [int(row.place.rpartition(":")[2]) for row in rows]
    assert numbers == sorted(numbers) == sorted(int(e.place.rpartition(":")[2]) for e in result.train)[:3]
    for row, number in zip(rows, numbers, strict=True):
        seen, learnt = (part for part in row.parts)
        assert (seen[0], learnt[0]) == (False, True)
        assert seen[1].endswith(f"What is {number - 1} - {number + 1}?\nAnswer:")
        assert learnt[1] == f" -2 of {number - 1}{tokenizer.eos_token}"
        assert 0 < row.learned_tokens < row.tokens
    everything = learned.first_rows(result, tokenizer, "all")
    assert [[is_learned for is_learned, _ in row.parts] for row in everything] == [[True]] * 3


def test_long_parts_are_shortened_and_say_by_how_much(prepared, tokenizer):
    long = [{**row, "prompt": f"{row['prompt']}{'x' * 4000}{row['id']}"} for row in PLAIN]
    row = learned.first_rows(prepared(long), tokenizer, "completion")[0]
    assert "characters ...]" in row.parts[0][1]
    assert len(row.parts[0][1]) < 1600
    assert row.parts[1][1].startswith(" -2 of")


@pytest.mark.parametrize(
    ("rows", "spec", "kind", "used", "unused"),
    [
        (PLAIN, {}, "prompt and completion", ("prompt", "completion"), ("id",)),
        ([{"text": f"A line {n}", "source": "x"} for n in range(40)], {}, "text", ("text",), ("source",)),
        (
            [{"instruction": f"Do {n}", "input": "", "output": f"{n}", "id": n} for n in range(40)],
            {}, "alpaca", ("instruction", "input", "output"), ("id",),
        ),
    ],
)  # fmt: skip
def test_the_format_and_the_columns_that_it_uses_are_said(prepared, rows, spec, kind, used, unused):
    [reading] = prepared(rows, **spec).readings
    assert (reading.format, reading.used, reading.unused) == (kind, used, unused)


def test_what_a_chat_template_changes_is_named(prepared):
    chats = [
        {"messages": [
            {"role": "system", "content": "Be brief."},
            {"role": "user", "content": f"Question {n}\n"},
            {"role": "assistant", "content": f"Answer {n}"},
        ]}
        for n in range(40)
    ]  # fmt: skip
    [notice] = prepared(chats, TRIMS).changes
    assert notice.startswith("the chat template cuts white space around 40 messages, as ")
    assert notice.endswith("rows.jsonl:1, message 2 (user)")
    [notice] = prepared(chats, DROPS).changes
    assert notice.startswith("the chat template leaves out or changes parts of 40 messages, as ")
    assert notice.endswith("rows.jsonl:1, message 1 (system)")
    [reading] = prepared(chats, DROPS).readings
    assert (reading.format, reading.used, reading.unused) == ("messages", ("messages",), ())


def test_the_terminal_tells_learned_from_seen_without_colors(prepared, tokenizer, capsys):
    result = prepared(PLAIN)
    check = dataclasses.make_dataclass("Check", ["formats", "first_rows"])(
        tuple(SourceFormat(**dataclasses.asdict(one)) for one in result.readings),
        learned.first_rows(result, tokenizer, "completion"),
    )
    data_card._show_rows(check, Console(width=200, highlight=False))
    lines = capsys.readouterr().out.splitlines()
    assert "read as prompt and completion; used: prompt, completion; not used: id" in lines[0]
    assert sum(line.startswith('  LEARN " -2 of') for line in lines) == 3
    assert sum(line.startswith("  see   ") and "\\nAnswer:" in line for line in lines) == 3
