"""Log-likelihoods of continuations, each shared context computed once.

The answer choices of an item share their context. They are laid behind it in one row, and an attention mask lets each
see the context and itself only, at the positions that it would have alone:

    row        c0 c1 c2 | a0 a1 | b0 b1 b2
    position    0  1  2 |  3  4 |  3  4  5

so that the numbers are those of separate rows. Logits are computed only where one is read.
"""

from __future__ import annotations

import warnings
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from harness.head import only_at

Progress = Callable[[int], None]
_LOGITS_AT_ONCE = 512  # rows of the vocabulary's width held in float32
_CLOSE = {"fp32": 1e-2, "bf16": 0.5}  # nats by which a row of one's own may differ, rounding alone


@dataclass(frozen=True)
class Request:
    """A continuation to score after a context; both are token ids and neither is empty."""

    context: tuple[int, ...]
    continuation: tuple[int, ...]


@dataclass(frozen=True)
class Score:
    """Natural log-likelihood of a continuation, and whether greedy decoding would have produced it."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class _Row:
    """One context with continuations behind it; `positions` are the requests' positions in the caller's list."""

    context: tuple[int, ...]
    continuations: tuple[tuple[int, ...], ...]
    positions: tuple[int, ...]

    def __len__(self) -> int:
        return len(self.context) + sum(len(continuation) - 1 for continuation in self.continuations)


@torch.no_grad()  # type: ignore[untyped-decorator]
def score(
    model: Any, requests: Sequence[Request], precision: str, batch_size: int, progress: Progress
) -> tuple[list[Score], bool]:
    """Score every request, in the order given, and say whether contexts were shared.

    Sharing is tried on one row first: a model that cannot take such a mask (virtual tokens in front, recurrence, its
    own kind of attention) is scored row by row. Leaves the model in the mode that it was in.

    Args:
        model: a causal language model, or an adapter around one.
        requests: what to score; requests that share a context need not stand together.
        precision: "bf16" computes under autocast; log-probabilities are always taken in float32.
        batch_size: rows per forward pass; rows of like length are batched together.
        progress: called with the number of requests that are done.
    """
    was_training = model.training
    model.eval()
    groups = defaultdict(list)
    for position, request in enumerate(requests):
        groups[request.context].append(position)
    rows = [_Row(c, tuple(requests[p].continuation for p in ps), tuple(ps)) for c, ps in groups.items()]
    shared = any(len(row.positions) > 1 for row in rows) and _can_share(model, rows, precision)
    if not shared:
        rows = [_Row(r.context, (r.continuation,), (position,)) for position, r in enumerate(requests)]
    scores: dict[int, Score] = {}
    rows.sort(key=len, reverse=True)
    for start in range(0, len(rows), batch_size):
        batch = rows[start : start + batch_size]
        for row, found in zip(batch, _score_rows(model, batch, precision, shared), strict=True):
            scores.update(zip(row.positions, found, strict=True))
        progress(len(scores))
    model.train(was_training)
    return [scores[position] for position in range(len(requests))], shared


def _can_share(model: Any, rows: list[_Row], precision: str) -> bool:
    """Whether the longest shared row gives what its continuations give alone."""
    if not _sees_everything(model):
        return False
    row = max(rows, key=lambda row: (len(row.positions) > 1, len(row)))
    alone = [_Row(row.context, (continuation,), (0,)) for continuation in row.continuations]
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on the mask is for a caller that would go on regardless
            together = _score_rows(model, [row], precision, shared=True)[0]
    except (RuntimeError, ValueError, TypeError, IndexError):
        return False
    apart = [found[0] for found in _score_rows(model, alone, precision, shared=False)]
    return all(
        abs(a.log_likelihood - b.log_likelihood) < _CLOSE[precision] for a, b in zip(together, apart, strict=True)
    )


def _sees_everything(model: Any) -> bool:
    """Whether every layer attends to all that stands before, through a mask that is a tensor of ours."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    return full and config._attn_implementation in ("sdpa", "eager")


def _score_rows(model: Any, rows: list[_Row], precision: str, shared: bool) -> list[list[Score]]:
    device = next(model.parameters()).device
    longest = max(map(len, rows))
    ids_BT = torch.zeros(len(rows), longest, dtype=torch.long)  # shape suffixes: batch, tokens
    position_BT, wanted_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
    segment_BT = torch.full_like(ids_BT, -1)  # -1 padding, 0 context, 1.. continuations
    for i, row in enumerate(rows):
        end = len(row.context)
        ids_BT[i, :end], position_BT[i, :end], segment_BT[i, :end] = torch.tensor(row.context), torch.arange(end), 0
        wanted_BT[i, end - 1] = True
        for number, continuation in enumerate(row.continuations, start=1):
            width = len(continuation) - 1  # what follows the last token is not asked for
            place = slice(end, end + width)
            ids_BT[i, place] = torch.tensor(continuation[:-1], dtype=torch.long)
            position_BT[i, place] = torch.arange(len(row.context), len(row.context) + width)
            segment_BT[i, place], wanted_BT[i, place] = number, True
            end += width
    inputs = {"input_ids": ids_BT.to(device), "attention_mask": (segment_BT >= 0).long().to(device)}
    if shared:
        inputs = {
            **inputs,
            "attention_mask": _mask(model, segment_BT.to(device)),
            "position_ids": position_BT.to(device),
        }
    with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bf16"), only_at(model, wanted_BT.to(device)):
        logits_NV = model(**inputs, use_cache=False).logits[0]  # N: wanted positions, V: vocabulary
    return _read(logits_NV, rows)


def _mask(model: Any, segment_BT: torch.Tensor) -> torch.Tensor:
    """(batch, 1, query, key): a token sees what stands before it in its context and in its own continuation."""
    query, key = segment_BT[:, :, None], segment_BT[:, None, :]
    length = segment_BT.shape[1]
    before = torch.ones(length, length, dtype=torch.bool, device=segment_BT.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=segment_BT.device)  # padding must see something
    allowed = (before & (key >= 0) & ((key == 0) | (key == query)) | itself)[:, None]
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


def _read(logits_NV: torch.Tensor, rows: list[_Row]) -> list[list[Score]]:
    """Gather each continuation's log-probabilities; its first token is predicted by the end of the context."""
    places: list[int] = []
    targets: list[int] = []
    owners: list[int] = []
    number = 0
    first = 0
    for row in rows:
        after = first + 1
        for continuation in row.continuations:
            width = len(continuation) - 1
            places += [first, *range(after, after + width)]
            targets += continuation
            owners += [number] * len(continuation)
            after += width
            number += 1
        first = after
    device = logits_NV.device
    place_K, target_K = torch.tensor(places, device=device), torch.tensor(targets, device=device)
    owner_K = torch.tensor(owners, device=device)  # K: all continuation tokens
    nats_K = torch.empty(len(places), dtype=torch.float64, device=device)
    greedy_K = torch.empty(len(places), dtype=torch.bool, device=device)
    for start in range(0, len(logits_NV), _LOGITS_AT_ONCE):
        chunk = logits_NV[start : start + _LOGITS_AT_ONCE].float()
        here = ((place_K >= start) & (place_K < start + len(chunk))).nonzero()[:, 0]
        local, target = place_K[here] - start, target_K[here]
        nats_K[here] = (chunk[local, target] - chunk.logsumexp(-1)[local]).double()
        greedy_K[here] = chunk.argmax(-1)[local] == target
    totals = torch.zeros(number, dtype=torch.float64, device=device).index_add_(0, owner_K, nats_K).tolist()
    misses = torch.zeros(number, dtype=torch.long, device=device).index_add_(0, owner_K, (~greedy_K).long()).tolist()
    found = iter([Score(total, miss == 0) for total, miss in zip(totals, misses, strict=True)])
    return [[next(found) for _ in row.continuations] for row in rows]
