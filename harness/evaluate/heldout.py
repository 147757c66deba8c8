"""The answer loss on held-out rows: the sensitive number where accuracies move by a few items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

from harness.evaluate import layout, likelihood
from harness.record import Metric

Row = dict[str, list[int]]  # input_ids and completion_mask, of one length


def score(
    model: Any, rows: Sequence[Row], precision: str, batch_tokens: int, progress: Callable[[int], None]
) -> list[tuple[float, int]]:
    """Nats and number of answer tokens of each row, in the order given; the model's mode is left as it was."""
    requests = []
    for row in rows:
        answer = row["completion_mask"].index(1)
        requests.append(layout.Request(tuple(row["input_ids"][:answer]), tuple(row["input_ids"][answer:])))
    scores, _ = likelihood.score(model, requests, precision, batch_tokens, progress)
    return [(-s.log_likelihood, len(r.continuation)) for s, r in zip(scores, requests, strict=True)]


def metrics(scores: Sequence[tuple[float, int]]) -> dict[str, Metric]:
    """Loss in nats per answer token with its standard error over rows, and perplexity = exp(loss).

    The loss is a ratio of two sums; its standard error is the delta method's (Cochran 1977, section 2.11).

    Raises:
        ValueError: no row, or no answer token.
    """
    tokens = sum(count for _, count in scores)
    if not tokens:
        raise ValueError("no answer token to score: the held-out set is empty or its answers are")
    loss, n = sum(nats for nats, _ in scores) / tokens, len(scores)
    squares = sum((nats - loss * count) ** 2 for nats, count in scores)
    stderr = math.sqrt(n / (n - 1) * squares) / tokens if n > 1 else None
    perplexity = math.exp(loss)
    return {
        "loss": Metric(value=loss, stderr=stderr, higher_is_better=False),
        "perplexity": Metric(
            value=perplexity, stderr=None if stderr is None else perplexity * stderr, higher_is_better=False
        ),
    }
