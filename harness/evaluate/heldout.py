"""The answer loss on held-out rows: the sensitive number where accuracies move by a few items."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch

from harness.record import Metric

Row = dict[str, list[int]]  # input_ids and completion_mask, of one length


@torch.no_grad()
def score(
    model: Any, rows: Sequence[Row], precision: str, batch_size: int, progress: Callable[[int], None]
) -> list[tuple[float, int]]:
    """Nats and number of answer tokens of each row, in the order given.

    Rows are batched by length. Log-probabilities are taken in float32 whatever the precision of the model.
    Leaves the model in the mode (training or evaluation) that it was in.
    """
    was_training = model.training
    model.eval()
    order = sorted(range(len(rows)), key=lambda i: len(rows[i]["input_ids"]))
    scores: dict[int, tuple[float, int]] = {}
    for start in range(0, len(order), batch_size):
        batch = order[start : start + batch_size]
        nats, counts = _score_batch(model, [rows[i] for i in batch], precision)
        scores.update(zip(batch, zip(nats, counts, strict=True), strict=True))
        progress(len(scores))
    model.train(was_training)
    return [scores[i] for i in range(len(rows))]


def _score_batch(model: Any, rows: list[Row], precision: str) -> tuple[list[float], list[int]]:
    device = next(model.parameters()).device
    longest = max(len(row["input_ids"]) for row in rows)
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)  # noqa: N806 - shape suffixes: batch, tokens
    mask_BT = torch.zeros_like(ids_BT)  # noqa: N806
    answer_BT = torch.zeros_like(ids_BT, dtype=torch.bool)  # noqa: N806
    for i, row in enumerate(rows):
        length = len(row["input_ids"])
        ids_BT[i, :length] = torch.tensor(row["input_ids"])
        mask_BT[i, :length] = 1
        answer_BT[i, :length] = torch.tensor(row["completion_mask"], dtype=torch.bool)
    ids_BT, mask_BT, answer_BT = ids_BT.to(device), mask_BT.to(device), answer_BT.to(device)  # noqa: N806
    answer_BT[:, 0] = False  # nothing predicts a first token
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"):
        logits = model(input_ids=ids_BT, attention_mask=mask_BT, use_cache=False).logits
    logits = logits[:, -longest:][:, :-1]  # virtual tokens, where a method has them, come first
    targets_N, where = ids_BT[:, 1:][answer_BT[:, 1:]], answer_BT[:, 1:]  # noqa: N806 - N: all answer tokens
    nats_N = torch.nn.functional.cross_entropy(logits[where].float(), targets_N, reduction="none")  # noqa: N806
    row_N = where.nonzero()[:, 0]  # noqa: N806
    nats = torch.zeros(len(rows), dtype=torch.float64, device=device).index_add_(0, row_N, nats_N.double())
    return nats.tolist(), where.sum(1).tolist()


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
