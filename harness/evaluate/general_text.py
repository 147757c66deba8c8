"""The loss on general text, which shows forgetting that no task measures.

The text is the encyclopedia passages of BoolQ's validation rows (Wikipedia, CC-BY-SA-3.0), each once, in the order of
their hashes, cut at 256 tokens.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from harness.data import rows
from harness.data.encode import encode_pair
from harness.evaluate import batching, likelihood
from harness.records.evaluation import Evaluation
from harness.records.items import text_hash
from harness.records.record import Metric
from harness.records.settings import GENERAL_TEXT
from harness.stats import mean_and_standard_error

_MAX_TOKENS = 256


def passages(limit: int | None) -> list[str]:
    """Return the first `limit` passages; all of them if it is None."""
    dataset, subset, split = GENERAL_TEXT
    texts = {row["passage"] for row in rows.official(dataset, subset, split, "package", None)}
    return sorted(texts, key=text_hash)[:limit]


def score(
    model: Any, tokenizer: Any, evaluation: Evaluation, progress: Callable[[int, int], None]
) -> tuple[dict[str, Metric], dict[str, list[Any]]]:
    """Return nats per token and bits per byte, both as means over passages, and one outcome per passage."""
    texts = passages(evaluation.limit)
    pairs = [encode_pair("", text, tokenizer) for text in texts]
    requests = [batching.Request(tuple(first), tuple(text[:_MAX_TOKENS])) for first, text in pairs]
    assert evaluation.batch_tokens is not None, "text is batched by tokens"
    scores, _ = likelihood.score(
        model, requests, evaluation.precision, evaluation.batch_tokens, lambda done: progress(done, len(requests))
    )
    nats = [-value.log_likelihood for value in scores]
    decoded = tokenizer.batch_decode([request.continuation for request in requests], clean_up_tokenization_spaces=False)
    loss = [value / len(request.continuation) for value, request in zip(nats, requests, strict=True)]
    bits = [value / math.log(2) / len(text.encode()) for value, text in zip(nats, decoded, strict=True)]
    hashes = [text_hash(text) for text in texts]
    columns: dict[str, list[Any]] = {
        "item_id": hashes,
        "prompt_hash": [text_hash(str(request.continuation)) for request in requests],
        "metric/loss": loss,
        "metric/bits_per_byte": bits,
    }
    return {"loss": _mean(loss), "bits_per_byte": _mean(bits)}, columns


def _mean(values: list[float]) -> Metric:
    mean = mean_and_standard_error(values)
    return Metric(value=mean.value, stderr=mean.standard_error, higher_is_better=False)
