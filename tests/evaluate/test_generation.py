"""Greedy text against forward passes without a cache, sampling settings, and what counts as degenerate."""

import pytest
import torch

from harness.config import config
from harness.evaluate.generation import Generated, generate, loops, options
from harness.records.settings import SamplingSpec
from tests.methods import workshop


@pytest.fixture(scope="module")
def shop(tiny_model):
    return workshop.on(tiny_model)


@pytest.fixture(scope="module")
def attached(shop, compose):
    """A model with a method attached whose trained weights are drawn anew, so that the method does something."""

    def made(name, *overrides):
        method = config.build(compose(f"method={name}", *workshop.SMALL.get(name, []), *overrides)).method
        model = shop.attach(method)
        torch.manual_seed(3)
        for parameter in model.parameters():
            if parameter.requires_grad:
                parameter.data = torch.randn_like(parameter) * 0.3
        return model.eval()

    return made


def by_hand(model, prompt, number, end):
    """Greedy decoding with one forward pass over everything for each token."""
    ids = list(prompt)
    for _ in range(number):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits
        ids.append(int(logits[0, -1].argmax()))
        if ids[-1] == end:
            return ids[len(prompt) : -1]
    return ids[len(prompt) :]


@pytest.mark.parametrize("name", ["base", "full", "lora", "prefix", "prompt", "p_tuning", "llama_adapter"])
def test_greedy_text_is_that_of_forward_passes_without_a_cache(name, attached, shop):
    model = attached(name)
    prompts = [row["input_ids"][:length] for row, length in zip(shop.rows, (10, 7, 12, 10), strict=True)]
    written = generate(model, shop.tokenizer, prompts, SamplingSpec(max_new_tokens=8), "fp32")
    expected = [by_hand(model, prompt, 8, shop.tokenizer.eos_token_id) for prompt in prompts]
    assert [list(one.token_ids) for one in written] == expected
    assert [one.text for one in written] == [shop.tokenizer.decode(ids, skip_special_tokens=True) for ids in expected]


def test_sampling_follows_the_random_state_and_its_settings(attached, shop):
    model, prompts = attached("base"), [row["input_ids"] for row in shop.rows]

    def drawn(seed, **settings):
        torch.manual_seed(seed)
        spec = SamplingSpec(max_new_tokens=10, **settings)
        return [one.token_ids for one in generate(model, shop.tokenizer, prompts, spec, "fp32")]

    assert drawn(0, temperature=1.0) == drawn(0, temperature=1.0) != drawn(1, temperature=1.0)
    assert drawn(0) == drawn(1), "greedy decoding draws nothing"
    assert drawn(0, temperature=1.0, top_p=1e-6) == drawn(0), "only the likeliest token is left"
    assert all(len(set(ids)) == len(ids) for ids in drawn(0, repetition_penalty=1e6)), "no token comes twice"


@pytest.mark.parametrize("name", ["base", "lora", "prefix"])
def test_the_settings_that_a_model_brings_are_not_taken_and_its_ends_are(name, attached, shop, monkeypatch):
    """Instruction-tuned models end a turn with a token that is not the tokenizer's end of sequence."""
    model, prompts = attached(name), [row["input_ids"][:10] for row in shop.rows]
    spec = SamplingSpec(max_new_tokens=8)
    plain = generate(model, shop.tokenizer, prompts, spec, "fp32")
    own = (model.get_base_model() if hasattr(model, "get_base_model") else model).generation_config
    monkeypatch.setattr(own, "no_repeat_ngram_size", 1)
    monkeypatch.setattr(own, "min_p", 0.5)
    assert generate(model, shop.tokenizer, prompts, spec, "fp32") == plain
    end = plain[0].token_ids[-1]
    monkeypatch.setattr(own, "eos_token_id", [shop.tokenizer.eos_token_id, end])
    [ended, *_] = generate(model, shop.tokenizer, prompts, spec, "fp32")
    assert ended.token_ids == plain[0].token_ids[: plain[0].token_ids.index(end)]
    assert ended.ended
    assert own.no_repeat_ngram_size == 1, "the model keeps its settings"


def test_every_setting_is_given_and_none_is_left_to_the_model(shop):
    greedy = options(shop.tokenizer, SamplingSpec())
    assert (greedy["do_sample"], greedy["max_new_tokens"], greedy["min_new_tokens"]) == (False, 64, None)
    drawn = options(shop.tokenizer, SamplingSpec(temperature=0.5, top_p=0.9), exactly=5)
    assert (drawn["do_sample"], drawn["temperature"], drawn["top_p"], drawn["top_k"]) == (True, 0.5, 0.9, 0)
    assert drawn["min_new_tokens"] == drawn["max_new_tokens"] == 5


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("the cat sat on the mat and looked at the other cat", False),
        ("a b " * 8, True),
        ("a b " * 7, False),  # 14 words
        ("x " * 16, True),
        ("x " * 15, False),
        ("one two three four five six seven eight " * 4, True),
        ("one two three four five six seven eight " * 3, False),
        ("well then " + "yes no maybe " * 6 + "and so on it went until the end", True),
        ("", False),
    ],
)
def test_a_loop_is_four_copies_in_a_row_and_sixteen_tokens(text, expected):
    assert loops(text.split()) is expected


def test_the_longest_unit_is_seen_and_none_beyond():
    assert loops(list(range(32)) * 4)
    assert not loops(list(range(33)) * 4)


def test_an_empty_answer_has_nothing_to_read():
    assert Generated((5, 6), True, " \n").empty
    assert not Generated((5, 6), True, "a").empty
