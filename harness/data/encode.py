"""From examples to token ids, with the boundary between prompt and completion where lm-eval puts it.

Training tokens then equal evaluation tokens: `LM._encode_pair` and `HFLM.tok_encode` of lm-eval 0.4.13.
"""

from collections.abc import Iterable
from typing import Any, Literal

from harness.data.format import Example

Tokens = list[int]


def encode(
    examples: Iterable[Example], tokenizer: Any, max_length: int, loss_on: Literal["completion", "all"], add_eos: bool
) -> tuple[list[dict[str, Tokens]], int]:
    """Rows of `input_ids` and `completion_mask` (1 where a token is to be learnt), and how many were too long.

    With `add_eos` the end-of-sequence token follows the completion and is learnt. A row of more than `max_length`
    tokens is left out and counted, never cut.

    Raises:
        ValueError: the tokenizer lacks a token that is needed, or a completion has no token of its own.
    """
    ending = [_end_of_sequence(tokenizer)] if add_eos else []
    rows = []
    removed_too_long = 0
    for example in examples:
        context, continuation = encode_pair(example.prompt, example.completion, tokenizer)
        answer = continuation if continuation[-1:] == ending else continuation + ending
        if len(context) + len(answer) > max_length:
            removed_too_long += 1
            continue
        learnt = 1 if loss_on == "all" else 0
        rows.append(
            {"input_ids": context + answer, "completion_mask": [learnt] * len(context) + [1] * len(answer)},
        )
    return rows, removed_too_long


def encode_pair(context: str, continuation: str, tokenizer: Any) -> tuple[Tokens, Tokens]:
    """Token ids of a prompt and of what follows it: the whole text is encoded and cut where the prompt's own ids end.

    White space at the end of the prompt belongs to what follows. An empty prompt becomes the tokenizer's first token.
    """
    if not context:
        first = _prefix(tokenizer)
        ids = tokenizer.encode(continuation, add_special_tokens=False)
        return ([first], ids) if ids[:1] != [first] else (ids[:1], ids[1:])
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    whole = _encode_text(stripped + continuation, tokenizer)
    context_ids = _encode_text(stripped, tokenizer)
    continuation_ids = whole[len(context_ids) :]
    if not continuation_ids:
        raise ValueError(
            f"the completion {continuation!r} has no token of its own after the prompt ending in {context[-40:]!r}: "
            "begin the completion with a space"
        )
    return context_ids, continuation_ids


def _encode_text(text: str, tokenizer: Any) -> Tokens:
    """Special tokens as the tokenizer itself adds them, but no second one before a text that begins with the first."""
    prefix = tokenizer.decode(_prefix(tokenizer))
    options = {"add_special_tokens": False} if text.startswith(prefix) else {}
    ids: Tokens = tokenizer.encode(text, **options)
    return ids


def _prefix(tokenizer: Any) -> int:
    first = tokenizer.bos_token_id
    return int(first) if first is not None else _end_of_sequence(tokenizer)


def _end_of_sequence(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, which ends a completion; choose another model")
    return int(tokenizer.eos_token_id)
