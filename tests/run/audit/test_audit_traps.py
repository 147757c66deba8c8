"""Each trap of tokenizers and chat templates is named by the check of the data; what would train wrong is refused."""

import json
import shutil

import pytest

from harness.config import config
from harness.report.pages import data_card
from harness.run import inputs, preflight
from harness.run.audit import audit

CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n{% endfor %}"
PLAIN = [{"prompt": f"say {n}", "completion": f" word{n}"} for n in range(40)]
CHATS = [
    {"messages": [{"role": "user", "content": f"say {n}"}, {"role": "assistant", "content": f"word{n}"}]}
    for n in range(40)
]


@pytest.fixture
def given(compose, tiny_overrides, tiny_model, tmp_path, monkeypatch):
    """An experiment on rows, with the tiny model's tokenizer as `change` leaves it."""
    monkeypatch.setenv("HARNESS_CACHE", str(tmp_path / "cache"))

    def made(rows, change=lambda tokenizer: None, *words):
        from transformers import AutoTokenizer

        folder, file = tmp_path / "model", tmp_path / "rows.jsonl"
        shutil.copytree(tiny_model, folder)
        tokenizer = AutoTokenizer.from_pretrained(folder)
        change(tokenizer)
        (folder / "chat_template.jinja").unlink()
        tokenizer.save_pretrained(folder)
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        asked = [*tiny_overrides, f"model.path={folder}", f"data.file={file}", *words]
        return inputs.resolve(config.build(compose(*asked)))

    return made


def looked(experiment):
    return audit(experiment, lambda event: None)


def test_a_sound_tokenizer_has_no_trap(given):
    found = looked(given(PLAIN))
    assert (found.notices, found.refusals) == ((), ())
    assert found.tokenizer == {
        "end of sequence": "</s>", "padding": "<pad>", "tokens known": "260", "rows of the embedding": "260",
        "chat template": "yes",
    }  # fmt: skip


def test_no_padding_token_is_said_with_what_pads_instead(given):
    found = looked(given(PLAIN, lambda tokenizer: setattr(tokenizer, "pad_token", None)))
    assert found.notices == (
        "the padding token is the end-of-sequence token </s>, since the tokenizer has no padding token; EOS is still "
        "trained",
    )
    assert found.tokenizer["padding"] == "</s>"
    assert found.refusals == ()
    assert "since the tokenizer has no padding token" in data_card.card(found)


def test_padding_with_the_end_of_sequence_is_said(given):
    found = looked(given(PLAIN, lambda tokenizer: setattr(tokenizer, "pad_token", "</s>")))
    assert found.notices == ("the padding token is the end-of-sequence token </s>; EOS is still trained",)
    assert found.refusals == ()


def test_a_padding_token_beyond_the_vocabulary_is_refused_before_anything_starts(given):
    experiment = given(PLAIN, lambda tokenizer: tokenizer.add_special_tokens({"pad_token": "<extra>"}))
    [refusal] = looked(experiment).refusals
    assert "the padding token <extra> is number 260, and the model's embedding has 260 rows" in refusal
    assert preflight.check([experiment], lambda event: None) == [(0, "wrong", refusal)]


def test_a_special_token_beyond_the_vocabulary_is_refused_where_the_data_hold_it(given):
    def change(tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})

    rows = [{"prompt": row["prompt"], "completion": row["completion"] + "<think>"} for row in PLAIN]
    [refusal] = looked(given(rows, change)).refusals
    assert "the data hold token 260 ('<think>') and the model's embedding has 260 rows" in refusal


def test_a_special_token_beyond_the_vocabulary_that_the_data_lack_is_said(given):
    def change(tokenizer):
        tokenizer.add_special_tokens({"additional_special_tokens": ["<think>"]})

    found = looked(given(PLAIN, change))
    assert found.notices == ("special tokens beyond the model's vocabulary, not in these data: <think>",)
    assert found.refusals == ()


def template(folder):
    file = folder / "chatml.jinja"
    file.write_text(CHATML)
    return f"data.template={file}"


def test_a_template_that_is_not_the_models_is_said_with_the_markers_that_it_takes_apart(given, tmp_path):
    found = looked(given(CHATS, lambda tokenizer: None, template(tmp_path)))
    assert found.notices == (
        "the chat template is not the model's own",
        "the chat template writes <|im_end|>, <|im_start|>, which this tokenizer takes apart",
    )
    assert found.refusals == ()


def test_a_template_for_a_model_that_has_none_is_said(given, tmp_path):
    found = looked(given(CHATS, lambda tokenizer: setattr(tokenizer, "chat_template", None), template(tmp_path)))
    assert found.notices[0] == "the model has no chat template of its own: it has not been trained on this one"


def test_the_models_own_template_is_no_trap(given, tmp_path):
    found = looked(given(CHATS))
    assert (found.template, found.notices, found.refusals) == ("model", (), ())
