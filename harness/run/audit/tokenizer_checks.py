"""Traps of tokenizers and chat templates, named before they cost a run."""

from __future__ import annotations

import re
from typing import Any

from harness.config.experiment import Experiment
from harness.data.chat import is_asked_for
from harness.data.chat_template import template_text
from harness.sources import models

_MARKER = re.compile(r"<\|[^|<>\s]+\|>|<(?:start|end)_of_turn>|\[/?INST\]")


def look(experiment: Experiment, tokenizer: Any, highest: int) -> tuple[dict[str, str], list[str], list[str]]:
    """Return (facts, notices, errors that would make training wrong).

    Args:
        experiment: names the model and the template.
        tokenizer: the model's, as training uses it.
        highest: the highest token id of the data.
    """
    vocabulary = _vocabulary_size(experiment)
    facts = {
        "end of sequence": str(tokenizer.eos_token),
        "padding": str(tokenizer.pad_token),
        "tokens known": f"{len(tokenizer):,}",
        "rows of the embedding": f"{vocabulary:,}",
        "chat template": "yes" if tokenizer.chat_template else "none",
    }
    beyond = [token for token, number in sorted(tokenizer.get_added_vocab().items()) if number >= vocabulary]
    wrong = []
    if highest >= vocabulary:
        wrong.append(
            f"model={experiment.model.name}: the data hold token {highest} "
            f"({tokenizer.convert_ids_to_tokens(highest)!r}) and the model's embedding has {vocabulary} rows: the "
            "tokenizer is not this model's, or tokens were added to it without resizing the model"
        )
    if tokenizer.pad_token_id >= vocabulary:
        wrong.append(
            f"model={experiment.model.name}: the padding token {tokenizer.pad_token} is number "
            f"{tokenizer.pad_token_id}, and the model's embedding has {vocabulary} rows: give the tokenizer a padding "
            "token that the model knows, or none, so that the end-of-sequence token is used"
        )
    notices = [*_padding(tokenizer), *_templates(experiment, tokenizer)]
    if beyond and not wrong:
        notices.append(f"special tokens beyond the model's vocabulary, not in these data: {', '.join(beyond[:5])}")
    return facts, notices, wrong


def _vocabulary_size(experiment: Experiment) -> int:
    return int(models.configuration(experiment.model).get_text_config().vocab_size)


def _padding(tokenizer: Any) -> list[str]:
    if tokenizer.pad_token_id != tokenizer.eos_token_id:
        return []
    own = tokenizer.init_kwargs.get("pad_token") is not None
    source = "" if own else ", since the tokenizer has no padding token"
    return [f"the padding token is the end-of-sequence token {tokenizer.eos_token}{source}; EOS is still trained"]


def _templates(experiment: Experiment, tokenizer: Any) -> list[str]:
    stated = experiment.data.template
    if not is_asked_for(experiment.data):
        return []
    text = template_text(stated, tokenizer)
    own = template_text(None, tokenizer)
    notices = []
    if stated not in (None, "model") and text != own:
        notices.append(
            "the chat template is not the model's own"
            if own
            else "the model has no chat template of its own: it has not been trained on this one"
        )
    split = [marker for marker in sorted(set(_MARKER.findall(text or ""))) if len(_ids(tokenizer, marker)) > 1]
    if split:
        notices.append(f"the chat template writes {', '.join(split)}, which this tokenizer takes apart")
    return notices


def _ids(tokenizer: Any, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])
