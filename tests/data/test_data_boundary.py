"""The tokens of a row write its text, and those that are learnt write its answer, with every kind of tokenizer."""

import itertools
import unicodedata

import pytest

from harness.data.encode import encode, encode_pair
from harness.data.format import Example
from harness.evaluate import heldout
from tests.data.tokenizers_here import MAKE

ENDINGS = [
    "Answer:", "Answer: ", "Answer:\n", "Answer:\n\n", "A:", "Q: x? A:\t", "### Response:\n", "=>", "=> ", "? ", "(",
    '"', "- ", "the run", "an \u00e9", "1", "x", "\u2026", "a \u2192",
]  # fmt: skip
BEGINNINGS = [
    "-2", " -2", "(b)", "**bold**", '"red"', "'tis", "2", " 2", "\n2", "\n\n2", "\u00e9t\u00e9", "\U0001f600", "...",
    "$5", "#tag", "</x>", "x", "ning", "\u4e2d", "\u0308", "0", "%", "- item", ") x", ":", "</s>",
]  # fmt: skip


@pytest.mark.parametrize("name", MAKE)
def test_tokens_write_the_text_and_those_learnt_the_answer(name):
    tokenizer = MAKE[name]()
    cases = 0
    for prompt, completion in itertools.product(ENDINGS, BEGINNINGS):
        [row], _ = encode([Example(prompt, completion)], tokenizer, 1000, "completion", add_eos=False)
        ids, mask = row["input_ids"], row["completion_mask"]
        begin = mask.index(1)
        assert mask == [0] * begin + [1] * (len(mask) - begin), (prompt, completion)
        front = len(ids) - len(tokenizer(prompt + completion, add_special_tokens=False)["input_ids"])
        assert 0 <= front <= begin, (prompt, completion)
        whole = tokenizer.decode(ids[front:], clean_up_tokenization_spaces=False)
        text = prompt + completion
        assert whole.removeprefix(" ") == normal(text, name).removeprefix(" "), (prompt, completion)
        shared, answer = heldout.texts(row, tokenizer)
        if not unicodedata.combining(completion[0]):  # an accent changes the sign before it
            assert (shared + answer, answer) == (shared + completion, completion), (prompt, completion)
            assert (" " + prompt).endswith(shared)
        first = tokenizer.decode(ids[: begin + 1])[len(tokenizer.decode(ids[:begin])) :]
        assert len(shared) < max(len(first), 1) or "\ufffd" in first, "a token without a sign of the answer is learnt"
        cases += 1
    assert cases == len(ENDINGS) * len(BEGINNINGS) == 494


def normal(text, name):
    return unicodedata.normalize("NFC", text) if name == "NFC" else text


def test_there_are_twenty_behaviors():
    assert len(MAKE) >= 20
    assert sum(not make().is_fast for make in MAKE.values()) == 3


def test_the_cases_reach_tokens_that_span_the_boundary():
    reached = set()
    for name, make in MAKE.items():
        tokenizer = make()
        for prompt, completion in itertools.product(ENDINGS, BEGINNINGS):
            [row], _ = encode([Example(prompt, completion)], tokenizer, 1000, "completion", add_eos=False)
            reached |= {name} if heldout.texts(row, tokenizer)[0] else set()
    assert len(reached) >= 15


@pytest.mark.parametrize("name", MAKE)
def test_what_a_tokenizer_appends_is_no_part_of_a_prompt_and_ends_no_answer_twice(name):
    tokenizer = MAKE[name]()
    context, answer = encode_pair("Answer:", " 2", tokenizer)
    assert tokenizer.eos_token_id not in [*context[1:], *answer] or name == "two first tokens"
    [row], _ = encode([Example("Answer:", " 2")], tokenizer, 1000, "completion", add_eos=True)
    assert (row["input_ids"], row["completion_mask"][-1]) == ([*context, *answer, tokenizer.eos_token_id], 1)


@pytest.mark.parametrize("end", ["</s>", "</s>\n", "</s> \n"])
@pytest.mark.parametrize("name", ["bytes", "last token", "first and last token", "trimmed places", "no places"])
def test_a_text_that_is_closed_already_is_closed_once(name, end):
    tokenizer = MAKE[name]()
    [row], _ = encode([Example("Answer:", f" 2{end}")], tokenizer, 1000, "completion", add_eos=True)
    assert row["input_ids"].count(tokenizer.eos_token_id) == 1
    assert tokenizer.decode(row["input_ids"]).endswith(f"Answer: 2{end}")


def test_chats_need_places_or_tokens_that_write_the_text():
    chat = Example("Answer:", " \u6f22", is_chat=True)
    with pytest.raises(ValueError, match="choose a model with a fast tokenizer"):
        encode([chat], MAKE["slow"](), 1000, "completion", add_eos=False)
    [row], _ = encode([Example("Answer:", "-2", is_chat=True)], MAKE["slow"](), 1000, "completion", add_eos=False)
    assert heldout.texts(row, MAKE["slow"]()) == (":", "-2")
