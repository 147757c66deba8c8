"""From examples to token ids: a row is tokenized once, as a whole, and cut where its answer begins in the text.

The rule, the same for training, held-out losses and the targets of generated answers: a token belongs to the answer if
any of its characters does. A prompt that ends in `Answer:` before `-2` may share the token `:-` with it; that token is
learned. No character is lost, and no other token of the prompt is learned. A text is never tokenized in two parts: the
parts joined would be tokens that the model never sees.
"""

from bisect import bisect_right
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from typing import Any

from harness.data.format import Example
from harness.records.settings import LossOn

Tokens = list[int]
_BATCH = 1_000  # texts that the tokenizer is given at once


@dataclass(frozen=True)
class Encoded:
    """One example as tokens.

    Attributes:
        ids: token ids of the whole row.
        mask: of the same length, 1 where a token is learned.
        answer_characters: length of the answer's text. Its tokens may write more: the end of the prompt before it.
    """

    ids: Tokens
    mask: Tokens
    answer_characters: int

    def row(self) -> dict[str, Tokens]:
        """Return the columns of a token row."""
        return {"input_ids": self.ids, "completion_mask": self.mask, "answer_characters": [self.answer_characters]}


def encode(
    examples: Iterable[Example], tokenizer: Any, max_length: int, loss_on: LossOn, add_eos: bool
) -> tuple[list[dict[str, Tokens]], int]:
    """Return the token rows of the examples, and how many were too long.

    A row of more than `max_length` tokens is left out and counted, never cut. Otherwise as `encoded`.
    """
    rows = list(encoded(examples, tokenizer, loss_on, add_eos))
    short = [row.row() for row in rows if len(row.ids) <= max_length]
    return short, len(rows) - len(short)


def encoded(examples: Iterable[Example], tokenizer: Any, loss_on: LossOn, add_eos: bool) -> Iterator[Encoded]:
    """Tokenize each example, and mark what is learned: the answer, or more by `loss_on`.

    With `add_eos` the chat template's ending and the end-of-sequence token follow the answer and are learned. A text
    that ends with that token by itself, white space apart, gets no second one.

    Raises:
        ValueError: the tokenizer lacks a token that is needed, or cannot tell where in a text a token stands; or an
            answer has no token.
    """
    encoder, ending = _Encoder(tokenizer, loss_on), _end_of_sequence(tokenizer) if add_eos else None
    source = iter(examples)
    while batch := list(islice(source, _BATCH)):
        texts = [example.prompt + example.completion + (example.ending if add_eos else "") for example in batch]
        for example, text in zip(batch, _tokenized(texts, tokenizer), strict=True):
            row = encoder.chat(example, text) if example.is_chat else encoder.plain(example, text)
            if loss_on == "all":
                mask = [1] * len(row.ids)
                for tokens in (text.tokens_of(*turn) for turn in example.muted):
                    mask[tokens] = [0] * len(mask[tokens])
                row = Encoded(row.ids, mask, row.answer_characters)
            if ending is not None and not text.ends_with(ending):
                row = Encoded([*row.ids, ending], [*row.mask, 1], row.answer_characters)
            yield row


def encode_pair(context: str, continuation: str, tokenizer: Any) -> tuple[Tokens, Tokens]:
    """Return the token ids before an answer and those of the answer.

    Raises:
        ValueError: as `encoded`.
    """
    [text] = _tokenized([context + continuation], tokenizer)
    row = _Encoder(tokenizer, "completion").plain(Example(context, continuation), text)
    begin = row.mask.index(1)
    return row.ids[:begin], row.ids[begin:]


class _Text:
    """A text, its token ids, and where in the text each token ends."""

    def __init__(self, text: str, ids: Tokens, offsets: list[tuple[int, int]] | None, tokenizer: Any) -> None:
        self.text, self.ids, self._tokenizer = text, ids, tokenizer
        ends = [end for _, end in offsets or ()]
        covered = bool(ends) and ends == sorted(ends) and ends[-1] >= len(text.rstrip())
        self._ends = ends if covered else None  # some tokenizers report places of no width

    def ended_by(self, position: int) -> int:
        """Return how many tokens end at or before a position, in characters."""
        if self._ends is not None:
            return bisect_right(self._ends, position)
        if self._starts_at is not None:
            return bisect_right(range(1, len(self.ids) + 1), position, key=self._reach)
        alone = self._tokenizer.encode(self.text[:position], add_special_tokens=False)
        return next((i for i, (a, b) in enumerate(zip(self.ids, alone, strict=False)) if a != b), len(alone))

    def tokens_of(self, begin: int, end: int) -> slice:
        """Return the tokens that hold any of the characters from `begin` to `end`.

        Raises:
            ValueError: the tokenizer does not tell where a token stands.
        """
        if self._ends is None and self._starts_at is None:
            raise ValueError(
                "chats need a tokenizer that tells where in a text a token stands, and this one neither reports it nor "
                f"writes its tokens back as {self.text[:40]!r}; choose a model with a fast tokenizer"
            )
        first, last = self.ended_by(begin), self.ended_by(end)
        spans = last < len(self.ids) and (last == 0 or self._reach(last) < end)  # the next token begins before the end
        return slice(first, last + spans)

    def ends_with(self, token: int) -> bool:
        """Return whether the last token that is more than white space is this one."""
        visible = next((token_id for token_id in reversed(self.ids) if self._decode([token_id]).strip()), None)
        return visible == token

    def _reach(self, number: int) -> int:
        """Return the position in the text where the first `number` tokens end; behind an incomplete character."""
        if self._ends is not None:
            return self._ends[number - 1]
        assert self._starts_at is not None, "tokens_of and ended_by have asked"
        written = self._decode(self.ids[:number])
        complete = written.rstrip("\ufffd")
        return self._starts_at + len(complete) + (complete != written)

    @cached_property
    def _starts_at(self) -> int | None:
        """Return the position in the text where the decoded tokens begin; None if they do not spell the text.

        White space before that position is what decoding left out.
        """
        whole = self._decode(self.ids)
        begin = len(self.text) - len(whole)
        return begin if self.text.endswith(whole) and not self.text[:begin].strip() else None

    def _decode(self, ids: Tokens) -> str:
        return str(self._tokenizer.decode(ids, skip_special_tokens=False, clean_up_tokenization_spaces=False))


def _tokenized(texts: list[str], tokenizer: Any) -> Iterator[_Text]:
    """Tokenize texts without the tokens that the tokenizer puts around them."""
    options = {"add_special_tokens": False, "return_attention_mask": False, "verbose": False}
    tokens = tokenizer(texts, return_offsets_mapping=bool(tokenizer.is_fast), **options)
    offsets = tokens["offset_mapping"] if tokenizer.is_fast else [None] * len(texts)
    for text, ids, places in zip(texts, tokens["input_ids"], offsets, strict=True):
        yield _Text(text, list(ids), places, tokenizer)


class _Encoder:
    """Marks the answers in tokenized texts."""

    def __init__(self, tokenizer: Any, loss_on: LossOn) -> None:
        self._tokenizer, self._loss_on = tokenizer, loss_on
        self._leading = _leading(tokenizer)

    def plain(self, example: Example, text: _Text) -> Encoded:
        """Mark the answer of a row that is no chat, behind the tokens that the tokenizer begins a text with.

        An answer before which nothing stands is predicted from the tokenizer's first token, as in lm-eval.
        """
        begin = text.ended_by(len(example.prompt))
        self._check(example, len(text.ids) - begin)
        first = self._leading or ([_first(self._tokenizer)] if begin == 0 else [])
        if text.ids[: len(first)] == first and len(text.ids) > len(first):  # the given text begins with them itself
            ids, begin = text.ids, max(begin, len(first))
        else:
            ids, begin = first + text.ids, begin + len(first)
        return Encoded(ids, [0] * begin + [1] * (len(ids) - begin), len(example.completion))

    def chat(self, chat: Example, text: _Text) -> Encoded:
        """Mark the answers of a chat, whose template has written every special token."""
        mask = [0] * len(text.ids)
        spans = [(len(chat.prompt), len(text.text)), *(chat.turns if self._loss_on == "assistant" else ())]
        for tokens in (text.tokens_of(*span) for span in spans):
            mask[tokens] = [1] * len(mask[tokens])
        self._check(chat, len(text.ids) - text.ended_by(len(chat.prompt)))
        return Encoded(text.ids, mask, len(chat.completion))

    def _check(self, example: Example, num_tokens: int) -> None:
        if num_tokens < 1:
            raise ValueError(
                f"{example.place or 'a row'}: the answer {example.completion!r} has no token behind the prompt ending "
                f"in {example.prompt[-40:]!r}; lengthen it or leave the row out"
            )


def _leading(tokenizer: Any) -> Tokens:
    """Return the tokens that the tokenizer puts in front of a text; those that it appends are no part of a prompt."""
    inner, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    places = [i for i in range(len(whole)) if whole[i : i + len(inner)] == inner]
    return list(whole[: places[0]]) if inner and places else []


def _first(tokenizer: Any) -> int:
    first = tokenizer.bos_token_id
    return int(first) if first is not None else _end_of_sequence(tokenizer)


def _end_of_sequence(tokenizer: Any) -> int:
    if tokenizer.eos_token_id is None:
        raise ValueError("the tokenizer has no end-of-sequence token, which ends an answer; choose another model")
    return int(tokenizer.eos_token_id)
