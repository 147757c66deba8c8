"""The answer loss on held-out rows, which shows differences that move accuracies by a few items only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from harness.evaluate import batching, likelihood
from harness.records.items import clusters, row_ids, text_hash
from harness.records.record import Metric
from harness.stats import ratio

Row = dict[str, list[int]]  # input_ids and completion_mask, of one length; answer_characters: one number


def score(
    model: Any, rows: Sequence[Row], precision: str, batch_tokens: int, progress: Callable[[int], None]
) -> list[tuple[float, int]]:
    """Return nats and number of answer tokens of each row, in the order given. The model keeps its mode."""
    requests = []
    for row in rows:
        answer = row["completion_mask"].index(1)
        requests.append(batching.Request(tuple(row["input_ids"][:answer]), tuple(row["input_ids"][answer:])))
    scores, _ = likelihood.score(model, requests, precision, batch_tokens, progress)
    return [(-s.log_likelihood, len(r.continuation)) for s, r in zip(scores, requests, strict=True)]


def columns(rows: Sequence[Row], scores: Sequence[tuple[float, int]]) -> dict[str, list[Any]]:
    """Return the columns of the items, one outcome per row."""
    hashes = [text_hash(str(row["input_ids"])) for row in rows]
    prompts = [str(row["input_ids"][: row["completion_mask"].index(1)]) for row in rows]
    return {
        **clusters(prompts),
        "item_id": row_ids(hashes),
        "prompt_hash": hashes,
        "metric/nll": [nats for nats, _ in scores],
        "num_tokens": [count for _, count in scores],
    }


def num_bytes(rows: Sequence[Row], tokenizer: Any) -> list[int]:
    """Return the UTF-8 bytes of each row's answer, which do not depend on how a tokenizer cuts it."""
    return [len(answer.encode()) for _, answer in map(partial(texts, tokenizer=tokenizer), rows)]


def texts(row: Row, tokenizer: Any, skip_special_tokens: bool = False) -> tuple[str, str]:
    """Return two texts of a row: the end of the prompt that shares a token with the answer, if any, and the answer."""
    begin = row["completion_mask"].index(1)
    decode = partial(tokenizer.decode, skip_special_tokens=skip_special_tokens, clean_up_tokenization_spaces=False)
    whole, before = decode(row["input_ids"]), decode(row["input_ids"][:begin])
    # a tokenizer may write a space in front of a token only behind another one
    answer = whole[len(before) :] if whole.startswith(before) else decode(row["input_ids"][begin:])
    begins = len(answer) - row["answer_characters"][0] if "answer_characters" in row else 0
    return answer[: max(begins, 0)], answer[max(begins, 0) :]


def metrics(scores: Sequence[tuple[float, int]], sizes: Sequence[int] | None = None) -> dict[str, Metric]:
    """Return the loss in nats per answer token with its standard error, perplexity = exp(loss), and bits per byte.

    The loss is a ratio of two sums over rows. Its standard error is the delta method's (Cochran 1977, section 2.11).
    `sizes` are the answers' bytes; without them there are no bits per byte.

    Raises:
        ValueError: no row, or no answer token.
    """
    tokens = sum(count for _, count in scores)
    if not tokens:
        raise ValueError("no answer token to score: the held-out set is empty or its answers are")
    loss = ratio([nats for nats, _ in scores], [count for _, count in scores])
    perplexity, stderr = math.exp(loss.value), loss.standard_error
    values = {
        "loss": Metric(value=loss.value, stderr=stderr, higher_is_better=False),
        "perplexity": Metric(
            value=perplexity, stderr=None if stderr is None else perplexity * stderr, higher_is_better=False
        ),
    }
    if sizes is not None and any(sizes):
        bits = ratio([nats / math.log(2) for nats, _ in scores], sizes)
        values["bits_per_byte"] = Metric(value=bits.value, stderr=bits.standard_error, higher_is_better=False)
    return values
