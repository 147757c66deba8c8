"""Chats: which tokens are learnt, what a template must not do, and what is refused."""

from pathlib import Path

import pytest

from harness.data.chat import Dialogue
from harness.data.chat_template import template_text
from harness.data.encode import encode
from harness.data.files import RowError
from harness.data.format import Renderer
from harness.records.settings import RowsSpec

TURNS = [("system", "be brief"), ("user", "hello"), ("assistant", "hi"), ("user", "again"), ("assistant", "hi there")]
CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"


@pytest.fixture(scope="module")
def tokens(tiny_model):
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(tiny_model)


def example(tokens, row, format_="messages", template=CHATML):
    return Renderer(RowsSpec(file="chats.jsonl", format=format_), Dialogue(tokens, template))(row, 3)


def learnt(tokens, one, loss_on):
    [row], _ = encode([one], tokens, 1000, loss_on, add_eos=True)
    return tokens.decode([t for t, keep in zip(row["input_ids"], row["completion_mask"], strict=True) if keep])


def chatml(turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns]}


def test_the_loss_is_on_what_was_asked_for(tokens):
    one = example(tokens, chatml(TURNS))
    assert one.prompt.endswith("<|im_start|>assistant\n")
    assert (one.completion, one.ending) == ("hi there", "<|im_end|>")
    assert learnt(tokens, one, "completion") == "hi there<|im_end|></s>"
    assert learnt(tokens, one, "assistant") == "hi<|im_end|>hi there<|im_end|></s>"
    assert learnt(tokens, one, "all").startswith("<|im_start|>system\nbe brief")


def test_an_answer_is_scored_without_what_closes_it(tokens):
    [row], _ = encode([example(tokens, chatml(TURNS))], tokens, 1000, "completion", add_eos=False)
    marked = [t for t, keep in zip(row["input_ids"], row["completion_mask"], strict=True) if keep]
    assert tokens.decode(marked) == "hi there"
    assert row["completion_mask"][-1] == 1


def test_no_second_end_follows_the_templates_own(tokens):
    one = example(tokens, chatml(TURNS[1:3]), template=tokens.chat_template)
    assert one.ending == "</s>"
    assert learnt(tokens, one, "completion") == "<assistant>hi</s>".removeprefix("<assistant>")


def test_sharegpt_is_the_same_chat(tokens):
    said = [{"from": {"user": "human", "assistant": "gpt"}.get(r, r), "value": text} for r, text in TURNS]
    assert example(tokens, {"conversations": said}, "sharegpt") == example(tokens, chatml(TURNS))


def test_the_same_chat_in_other_clothes(tokens):
    chat = example(tokens, chatml(TURNS))
    messages = chatml(TURNS)["messages"]
    assert example(tokens, {"conversations": messages}, "sharegpt") == chat
    assert example(tokens, {"prompt": messages[:-1], "completion": messages[-1:]}) == chat
    assert example(tokens, {"system": "be brief", "messages": messages[1:], "tools": "[]"}) == chat
    parts = [{**one, "content": [{"type": "text", "text": one["content"]}], "tool_calls": None} for one in messages]
    assert example(tokens, {"messages": parts}) == chat


def test_turns_of_tools_are_part_of_the_chat(tokens):
    said = [("human", "what is 1+1?"), ("function_call", "add(1, 1)"), ("observation", "2"), ("gpt", "two")]
    one = example(tokens, {"conversations": [{"from": who, "value": text} for who, text in said]}, "sharegpt")
    assert "<|im_start|>tool\n2<|im_end|>" in one.prompt
    assert learnt(tokens, one, "assistant") == "add(1, 1)<|im_end|>two<|im_end|></s>"


@pytest.mark.parametrize(
    ("row", "complaint"),
    [
        ({"messages": "hi"}, "messages must be a list of messages, it is a str"),
        ({"messages": []}, "messages has no message"),
        (chatml(TURNS[:2]), "the last message is the user's"),
        (chatml([("user", "a"), ("assistant", " ")]), "an answer is empty"),
        (chatml([("user", "a"), ("assistant", ""), ("user", "b"), ("assistant", "c")]), "an answer is empty"),
        ({"messages": [{"role": "assistant", "content": "", "tool_calls": [{"id": 1}]}]}, "message 1 has tool_calls"),
        ({**chatml(TURNS), "tools": [{"name": "search"}]}, "the row has tools, which are not written"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "message 1: content must be text"),
        (chatml([("robot", "a")]), "message 1: role='robot', it must be system, user"),
        ({"messages": [{"role": "user", "content": 3}]}, "message 1: content must be text, it is int"),
        ({"messages": ["hi"]}, "message 1 is a str"),
    ],
)
def test_what_is_no_chat_is_refused_by_its_line(tokens, row, complaint):
    with pytest.raises(RowError, match=f"^chats.jsonl:3: {complaint}"):
        example(tokens, row)


def test_a_template_that_rewrites_an_answer_is_refused(tokens):
    loud = "{% for m in messages %}{{ m.content | upper }}!{% endfor %}"
    with pytest.raises(RowError, match="does not write message 2 as it stands"):
        example(tokens, chatml(TURNS[1:3]), template=loud)


THOUGHT = "<think>\ntwo and two\n</think>\n\nfour"
# templates as TRL keeps them -> what is learned of an answer with a thought; earlier thoughts are cut off
THINKING = {
    "qwen3": (THOUGHT, "four<|im_end|>"),
    "qwen3_training": (THOUGHT, THOUGHT + "<|im_end|>"),
    "qwen3_5_think": (THOUGHT.removeprefix("<think>\n"), "four<|im_end|>"),  # the generation prompt opens the thought
    "qwen3_5_nothink": (THOUGHT.removeprefix("<think>\n"), "four<|im_end|>"),
    "qwen3_6": (THOUGHT.removeprefix("<think>\n"), "four<|im_end|>"),
    "glm4moe": ("\n<think>two and two</think>\nfour", "four"),
    "nemotron_3_nano": (THOUGHT.removeprefix("<think>\n"), "\n\nfour<|im_end|>"),
}


@pytest.mark.parametrize("name", THINKING)
def test_thoughts_are_learned_as_the_template_writes_them(tokens, name):
    import trl

    assert len(THINKING) == 7
    template = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    last, earlier = THINKING[name]
    turns = [("user", "2+2?"), ("assistant", THOUGHT)]
    one, two = (example(tokens, chatml(many), template=template) for many in (turns, turns * 2))
    assert (one.completion, two.completion) == (last, last)
    whole = tokens.apply_chat_template(chatml(turns)["messages"], tokenize=False, chat_template=template)
    assert one.prompt + one.completion + one.ending == whole.rstrip()
    [(begin, end)] = two.turns
    assert two.prompt[begin:end] == earlier
    plain = example(tokens, chatml([turns[0], ("assistant", "four")]), template=template)
    assert plain.completion.endswith("four"), "an answer without a thought is read as before"


def test_a_template_that_asks_for_todays_date_writes_the_same_every_day(tokens, tmp_path):
    dated = "{% set day = strftime_now('%d %b %Y') %}[{{ day }} {{ strftime_now(\"%Y\") }}]" + CHATML
    (tmp_path / "dated.jinja").write_text(dated)
    one = example(tokens, chatml(TURNS), template=template_text(str(tmp_path / "dated.jinja"), tokens))
    assert one.prompt.startswith("[26 Jul 2024 2024]<|im_start|>")


def test_a_prompt_of_messages_is_recognized_as_a_chat():
    from harness.data.format import recognized

    row = {"prompt": chatml(TURNS[:2])["messages"], "completion": chatml(TURNS[2:3])["messages"]}
    assert recognized(RowsSpec(file="chats.jsonl"), row).format == "messages"


def test_chats_without_a_template_are_refused():
    with pytest.raises(ValueError, match=r"no chat template: give data\.template"):
        Renderer(RowsSpec(file="chats.jsonl", format="messages"))
