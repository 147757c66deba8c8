"""From examples to token ids, with the boundary between prompt and completion where lm-eval puts it.

Training tokens then equal evaluation tokens: `LM._encode_pair` and `HFLM.tok_encode` of lm-eval 0.4.13. A chat is
encoded whole, as its template writes it, and a token is learnt where it begins within what is to be learnt.
"""

from collections.abc import Iterable, Iterator
from itertools import islice
from typing import Any

from harness.data.format import Example
from harness.records.specs import LossOn

Tokens = list[int]
_BATCH = 1_000  # texts that the tokenizer is given at once


def encode(
    examples: Iterable[Example], tokenizer: Any, max_length: int, loss_on: LossOn, add_eos: bool
) -> tuple[list[dict[str, Tokens]], int]:
    """Rows of `input_ids` and `completion_mask` (1 where a token is to be learnt), and how many were too long.

    A row of more than `max_length` tokens is left out and counted, never cut. Otherwise as `encoded`.
    """
    rows = list(encoded(examples, tokenizer, loss_on, add_eos))
    kept = [{"input_ids": ids, "completion_mask": mask} for ids, mask in rows if len(ids) <= max_length]
    return kept, len(rows) - len(kept)


def encoded(
    examples: Iterable[Example], tokenizer: Any, loss_on: LossOn, add_eos: bool
) -> Iterator[tuple[Tokens, Tokens]]:
    """Token ids of each example and, of the same length, 1 where one is to be learnt: the answer, or more by `loss_on`.

    With `add_eos` what ends a completion follows it and is learnt: the chat template's ending, and the end-of-sequence
    token where that is not it.

    Raises:
        ValueError: the tokenizer lacks a token that is needed, or a completion has no token of its own.
    """
    ending = [_end_of_sequence(tokenizer)] if add_eos else []
    source = iter(examples)
    while batch := list(islice(source, _BATCH)):
        plain = iter(encode_pairs([(e.prompt, e.completion) for e in batch if not e.is_chat], tokenizer))
        chats = iter(_encode_chats([e for e in batch if e.is_chat], tokenizer, loss_on, add_eos))
        for example in batch:
            if example.is_chat:
                ids, mask = next(chats)
            else:
                context, answer = next(plain)
                ids, mask = context + answer, [int(loss_on == "all")] * len(context) + [1] * len(answer)
            missing = ending if ids[-1:] != ending else []
            yield ids + missing, mask + [1] * len(missing)


def encode_pair(context: str, continuation: str, tokenizer: Any) -> tuple[Tokens, Tokens]:
    """Token ids of a prompt and of what follows it: the whole text is encoded and cut where the prompt's own ids end.

    White space at the end of the prompt belongs to what follows. An empty prompt becomes the tokenizer's first token.
    """
    return encode_pairs([(context, continuation)], tokenizer)[0]


def encode_pairs(pairs: list[tuple[str, str]], tokenizer: Any) -> list[tuple[Tokens, Tokens]]:
    """`encode_pair` of several, faster."""
    moved = []
    for context, continuation in pairs:
        stripped = context.rstrip() if context else ""
        moved.append((stripped, context[len(stripped) :] + continuation))
    asked = [(context, rest) for (context, rest), (given, _) in zip(moved, pairs, strict=True) if given]
    wholes = iter(_encode_texts([context + rest for context, rest in asked], tokenizer))
    contexts = iter(_encode_texts([context for context, _ in asked], tokenizer))
    result = []
    for (given, _), (context, rest) in zip(pairs, moved, strict=True):
        if not given:
            result.append(_after_nothing(rest, tokenizer))
            continue
        context_ids = next(contexts)
        continuation_ids = next(wholes)[len(context_ids) :]
        if not continuation_ids:
            raise ValueError(
                f"the completion {rest!r} has no token of its own after the prompt ending in {context[-40:]!r}: "
                "begin the completion with a space"
            )
        result.append((context_ids, continuation_ids))
    return result


def _after_nothing(text: str, tokenizer: Any) -> tuple[Tokens, Tokens]:
    first = _prefix(tokenizer)
    ids = tokenizer.encode(text, add_special_tokens=False)
    return ([first], ids) if ids[:1] != [first] else (ids[:1], ids[1:])


def _encode_texts(texts: list[str], tokenizer: Any) -> list[Tokens]:
    """Special tokens as the tokenizer itself adds them, but no second one before a text that begins with the first."""
    prefix = tokenizer.decode(_prefix(tokenizer))
    has_own = [text.startswith(prefix) for text in texts]
    plain, begun = (
        iter(_ids([text for text, own in zip(texts, has_own, strict=True) if own is which], tokenizer, options))
        for which, options in ((False, {}), (True, {"add_special_tokens": False}))
    )
    return [next(begun if own else plain) for own in has_own]


def _ids(texts: list[str], tokenizer: Any, options: dict[str, bool]) -> list[Tokens]:
    if not texts:
        return []
    found: list[Tokens] = tokenizer(texts, return_attention_mask=False, verbose=False, **options)["input_ids"]
    return found


def _encode_chats(
    chats: list[Example], tokenizer: Any, loss_on: LossOn, add_eos: bool
) -> Iterator[tuple[Tokens, Tokens]]:
    if not chats:
        return
    if not tokenizer.is_fast:
        raise ValueError("chats need a fast tokenizer, which knows where in the text a token is; choose another model")
    texts = [chat.prompt + chat.completion + (chat.ending if add_eos else "") for chat in chats]
    options = {"add_special_tokens": False, "return_attention_mask": False, "return_offsets_mapping": True}
    found = tokenizer(texts, verbose=False, **options)
    for chat, text, ids, offsets in zip(chats, texts, found["input_ids"], found["offset_mapping"], strict=True):
        spans = [(len(chat.prompt), len(text)), *(chat.turns if loss_on == "assistant" else ())]
        if loss_on == "all":
            spans = [(0, len(text))]
        mask = [int(any(begin <= start < end for begin, end in spans)) for start, _ in offsets]
        if not any(mask):
            raise ValueError(f"{chat.place}: the answer {chat.completion!r} has no token of its own; lengthen it")
        yield ids, mask


def _prefix(tokenizer: Any) -> int:
    first = tokenizer.bos_token_id
    return int(first) if first is not None else _end_of_sequence(tokenizer)


def _end_of_sequence(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, which ends a completion; choose another model")
    return int(tokenizer.eos_token_id)
