"""Tokenizers of many behaviors, built here: what real ones do at the ends of a text, with spaces and with places."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers
from transformers import PreTrainedTokenizer, PreTrainedTokenizerFast

CORPUS = [
    'Question: What is it?\nAnswer: -2 or "red" or (b), **bold** text; A:\n\n### Response:\n2 => x',
    "Answer:-2 Answer:(b) Answer:**bold** A:\n2 A:\n\n- item: \u00e9t\u00e9 \u4e2d\u6587 => 12 %",
    "the running ending 'tis ... $5 #tag </x> \U0001f600 -- x- 1, 2 0 \u0308\u2026\u2192\t",
] * 20
SPECIAL = ["<s>", "</s>"]
GPT4 = r"'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]++[\r\n]*|\s*[\r\n]|\s+(?!\S)|\s+"


def _bytes(size: int = 420, prefix_space: bool = False, use_regex: bool = True) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=prefix_space, use_regex=use_regex)
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, size)


def _trained(backend: Tokenizer, size: int) -> Tokenizer:
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator(CORPUS, trainer)
    return backend


def _around(template: str, backend: Tokenizer | None = None) -> Tokenizer:
    backend = backend or _bytes()
    backend.post_processor = processors.TemplateProcessing(
        single=template, special_tokens=[(token, backend.token_to_id(token)) for token in SPECIAL]
    )
    return backend


def _trimmed() -> Tokenizer:
    backend = _bytes()
    backend.post_processor = processors.ByteLevel(trim_offsets=True)
    return backend


def _normalized() -> Tokenizer:
    backend = Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, 420)


def _split(*steps: Any) -> Tokenizer:
    backend = Tokenizer(models.BPE())
    level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.pre_tokenizer = pre_tokenizers.Sequence([*steps, level])
    backend.decoder = decoders.ByteLevel()
    return _trained(backend, 420)


def _pieces(scheme: str) -> Tokenizer:
    """As SentencePiece writes it: a space is a sign of its own, and bytes stand for what has no piece."""
    alphabet = sorted({sign for text in CORPUS for sign in text.replace(" ", "\u2581")})
    tokens = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *alphabet]
    merges = [
        ("A", "n"),
        ("An", "s"),
        ("Ans", "w"),
        ("Answ", "e"),
        ("Answe", "r"),
        (":", "-"),
        (":", "("),
        ("\n", "\n"),
    ]
    merges += [("\u2581", "-"), ("\u2581", "2"), ("\u2581", "Answer"), ("*", "*"), ("i", "n"), ("in", "g")]
    tokens += [a + b for a, b in merges]
    backend = Tokenizer(
        models.BPE(
            vocab={token: i for i, token in enumerate(tokens)}, merges=merges, unk_token="<unk>", byte_fallback=True
        )
    )
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme, split=False)
    backend.decoder = decoders.Sequence(
        [
            decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse(),
            *([decoders.Strip(" ", 1, 0)] if scheme != "never" else []),
        ]
    )  # fmt: skip
    backend.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 0)])
    return backend


def _unigram() -> Tokenizer:
    signs = sorted({sign for text in CORPUS for sign in text.replace(" ", "\u2581")} | set("\u0308\u2026\u2192\t"))
    pieces = [("<s>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), *((sign, -8.0) for sign in signs)]
    pieces += [(piece, -5.0) for piece in ("Answer", ":-", ":(", "\u2581-", "\u25812", "ing", "**", "\n\n")]
    backend = Tokenizer(models.Unigram(pieces, unk_id=2, byte_fallback=False))
    backend.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="never", split=False)
    backend.decoder = decoders.Metaspace(prepend_scheme="never", split=False)
    return backend


def _eating_spaces() -> Tokenizer:
    backend = _bytes()
    backend.add_special_tokens([AddedToken("<mark>", lstrip=True, rstrip=True, special=True)])
    return backend


def _fast(backend: Tokenizer) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", eos_token="</s>")


class NoPlaces(PreTrainedTokenizerFast):  # type: ignore[misc]
    """Reports a place of no width for every token, as some versions of real tokenizers do."""

    def __call__(self, *arguments: Any, **options: Any) -> Any:
        result = super().__call__(*arguments, **options)
        if "offset_mapping" in result:
            result["offset_mapping"] = [[(begin, begin) for begin, _ in places] for places in result["offset_mapping"]]
        return result


class Slow(PreTrainedTokenizer):  # type: ignore[misc]
    """Written in Python, without places: signs and a few pairs of signs."""

    pairs = (":-", ":(", "**", "in", "\n\n", " 2", " -", "An")

    def __init__(self, front: bool = False, behind: bool = False, **options: Any) -> None:
        signs = sorted({sign for text in CORPUS for sign in text} | set("\u0308\u2026\u2192\t"))
        self.table = {token: i for i, token in enumerate([*SPECIAL, "<unk>", *signs, *self.pairs])}
        self.names = {i: token for token, i in self.table.items()}
        self.front, self.behind = front, behind
        super().__init__(bos_token="<s>", eos_token="</s>", unk_token="<unk>", **options)

    @property
    def vocab_size(self) -> int:
        return len(self.table)

    def get_vocab(self) -> dict[str, int]:
        return dict(self.table)

    def _tokenize(self, text: str, **_: Any) -> list[str]:
        result: list[str] = []
        while text:
            size = 2 if text[:2] in self.pairs else 1
            result.append(text[:size])
            text = text[size:]
        return result

    def _convert_token_to_id(self, token: str) -> int:
        return self.table.get(token, self.table["<unk>"])

    def _convert_id_to_token(self, index: int) -> str:
        return self.names[index]

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        return "".join(tokens)

    def build_inputs_with_special_tokens(self, first: list[int], second: list[int] | None = None) -> list[int]:
        return [0] * self.front + first + [1] * self.behind


MAKE: dict[str, Callable[[], Any]] = {
    "bytes": lambda: _fast(_bytes()),
    "bytes with few merges": lambda: _fast(_bytes(270)),
    "bytes with many merges": lambda: _fast(_bytes(900)),
    "bytes without a pattern": lambda: _fast(_bytes(600, use_regex=False)),
    "a space in front": lambda: _fast(_bytes(prefix_space=True)),
    "first token": lambda: _fast(_around("<s> $A")),
    "last token": lambda: _fast(_around("$A </s>")),
    "first and last token": lambda: _fast(_around("<s> $A </s>")),
    "two first tokens": lambda: _fast(_around("<s> </s> $A")),
    "the end in front": lambda: _fast(_around("</s> $A")),
    "trimmed places": lambda: _fast(_trimmed()),
    "NFC": lambda: _fast(_normalized()),
    "single digits": lambda: _fast(_split(pre_tokenizers.Digits(individual_digits=True))),
    "GPT-4's pattern": lambda: _fast(_split(pre_tokenizers.Split(Regex(GPT4), "isolated"))),
    "split at spaces": lambda: _fast(_split(pre_tokenizers.Split(" ", "merged_with_next"))),
    "a token that eats spaces": lambda: _fast(_eating_spaces()),
    "pieces, always a space": lambda: _fast(_pieces("always")),
    "pieces, a space first": lambda: _fast(_pieces("first")),
    "pieces, no space": lambda: _fast(_pieces("never")),
    "unigram": lambda: _fast(_unigram()),
    "no places": lambda: NoPlaces(tokenizer_object=_bytes(), bos_token="<s>", eos_token="</s>"),
    "no places, last token": lambda: NoPlaces(tokenizer_object=_around("$A </s>"), bos_token="<s>", eos_token="</s>"),
    "slow": lambda: Slow(),
    "slow, first token": lambda: Slow(front=True),
    "slow, first and last token": lambda: Slow(front=True, behind=True),
}
