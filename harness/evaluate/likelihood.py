"""Log-likelihoods of continuations. Each shared context and each shared prefix is computed once.

The answer choices of an item share their context. They are laid behind it in one row. An attention mask lets each
choice attend to the context and to itself only, at the positions that it would have alone:

    row        c0 c1 c2 | a0 a1 | b0 b1 b2
    position    0  1  2 |  3  4 |  3  4  5

The shared beginning of several contexts and a method's virtual tokens are computed once, as keys and values that
precede every row. The scores are those of separate rows. Logits are computed only at positions where they are read.
"""

from __future__ import annotations

import inspect
import math
import warnings
import weakref
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers.cache_utils import Cache, DynamicLayer

from harness.evaluate.batching import Cluster, Request, Row, batches, clusters_of, rows_of
from harness.evaluate.precision import computing
from harness.train.loss import only_at

_CACHE_NAMES = ("cache", "past_key_values")  # from transformers 5.24 on, and before it


@dataclass(frozen=True)
class Prefix:
    """Keys and values of a prefix, and the model that continues behind them."""

    model: Any  # takes the rows; for a model with virtual tokens this is the model inside, without them
    layers: tuple[tuple[torch.Tensor, torch.Tensor], ...]  # per layer keys and values: (1, heads, tokens, head size)

    def __len__(self) -> int:
        return int(self.layers[0][0].shape[-2]) if self.layers else 0

    def inputs(self) -> dict[str, Cache]:
        """Return the cache to pass to the model with a batch of rows; {} if there is no prefix."""
        layers = [_Frozen(keys, values) for keys, values in self.layers]
        return {_cache_argument(self.model): Cache(layers=layers)} if layers else {}

    @staticmethod
    def of(model: Any, tokens: tuple[int, ...]) -> Prefix:
        """Run `model` over the tokens once.

        Raises:
            TypeError: the model keeps something other than the keys and values of all tokens.
        """
        inner = _without_virtual_tokens(model)
        if not tokens and inner is model:
            return Prefix(model, ())
        device = model.get_input_embeddings().weight.device
        ids = torch.tensor(
            [tokens or (0,)], device=device
        )  # behind virtual tokens alone, a token that is cut off again
        nothing = torch.zeros_like(ids, dtype=torch.bool)
        with only_at(inner, nothing):
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), use_cache=True)
        cache = next(output[name] for name in _CACHE_NAMES if name in output)
        if {type(layer) for layer in cache.layers} != {DynamicLayer}:
            raise TypeError(f"the model keeps {cache}, and not the keys and values of all tokens")
        cached = cache.get_seq_length() - (0 if tokens else 1)
        return Prefix(
            inner, tuple((layer.keys[..., :cached, :], layer.values[..., :cached, :]) for layer in cache.layers)
        )


def _cache_argument(model: Any) -> str:
    """Return the name under which a model takes keys and values; of a PEFT model the one of the model inside."""
    inner = model.get_base_model() if hasattr(model, "get_base_model") else model
    taken = inspect.signature(inner.forward).parameters
    return next((name for name in _CACHE_NAMES if name in taken), _CACHE_NAMES[-1])


def _without_virtual_tokens(model: Any) -> Any:
    """Return the model inside a PEFT model that prepends virtual tokens; otherwise the model itself."""
    config = getattr(model, "active_peft_config", None)
    return model.get_base_model() if config is not None and config.is_prompt_learning else model


class _Frozen(DynamicLayer):  # type: ignore[misc]
    """One layer's keys and values of a prefix. They are prepended to those of any batch and never grow."""

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.lazy_initialization(keys, values)
        self.keys, self.values = keys, values

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, *_: Any, **__: Any
    ) -> tuple[torch.Tensor, torch.Tensor]:
        size = (key_states.shape[0], -1, -1, -1)
        keys = torch.cat([self.keys.expand(size), key_states], dim=-2)
        return keys, torch.cat([self.values.expand(size), value_states], dim=-2)


Progress = Callable[[int], None]
_Tried = dict[tuple[int, ...], Prefix]  # prefixes computed while testing that the model supports them
_GPU_MULTIPLE = 64  # tokens
_LOGITS_AT_ONCE = 512  # rows of the vocabulary's width held in float32
_CLOSE = {"fp32": 1e-2, "bf16": 0.5}  # nats by which a separate row may differ through rounding
# Per model: the number of tokens up to which sharing was found to give the same, by precision and kind of sharing.
_found_same: weakref.WeakKeyDictionary[Any, dict[tuple[str, bool, bool], float]] = weakref.WeakKeyDictionary()
_LENGTH_TURNS = ("dynamic", "longrope")  # rotary embeddings whose frequencies depend on the length of the row


@dataclass(frozen=True)
class Score:
    """Log-likelihood of a continuation in nats; `is_greedy` if greedy decoding would have produced it."""

    log_likelihood: float
    is_greedy: bool


@dataclass(frozen=True)
class Work:
    """Work of scoring: kinds of sharing in use, and the tokens computed, without padding.

    `separate_tokens` is the number of tokens without sharing.
    """

    shared_context: bool
    shared_prefix: bool
    computed_tokens: int
    separate_tokens: int

    def __add__(self, other: Work) -> Work:
        """Return the sum of both."""
        return Work(
            shared_context=self.shared_context or other.shared_context,
            shared_prefix=self.shared_prefix or other.shared_prefix,
            computed_tokens=self.computed_tokens + other.computed_tokens,
            separate_tokens=self.separate_tokens + other.separate_tokens,
        )


@torch.no_grad()  # type: ignore[untyped-decorator]
def score(
    model: Any, requests: Sequence[Request], precision: str, batch_tokens: int, progress: Progress
) -> tuple[list[Score], Work]:
    """Return the score of every request, in the order given, and the work that it took.

    Sharing is tested on one row first. A model that does not support it (recurrence, its own kind of attention) is
    scored without sharing. The model keeps its train or eval mode.

    Args:
        model: a causal language model, or an adapter around one.
        requests: what to score; requests that share a context need not stand together.
        precision: of the forward passes, as `computing` takes it; log-probabilities are always taken in float32.
        batch_tokens: tokens per forward pass, padding and prefix of each row included; at least one row is taken.
        progress: called with the number of requests that are done.
    """
    was_training = model.training
    model.eval()
    try:
        with computing(model, precision):
            plan, tried = _plan(model, requests, precision)
            scores: dict[int, Score] = {}
            for cluster in plan:
                prefix = None if tried is None else _prefix(model, cluster, tried)
                for batch in batches(cluster, batch_tokens):
                    row_scores = _score_rows(model, batch, prefix)
                    for row, entry in zip(batch, row_scores, strict=True):
                        scores.update(zip(row.positions, entry, strict=True))
                    progress(len(scores))
    finally:
        model.train(was_training)
    work = Work(
        shared_context=tried is not None and any(len(row.positions) > 1 for cluster in plan for row in cluster.rows),
        shared_prefix=any(cluster.prefix for cluster in plan),
        computed_tokens=sum(cluster.num_tokens for cluster in plan),
        separate_tokens=sum(map(len, rows_of(requests, shared=False))),
    )
    return [scores[position] for position in range(len(requests))], work


def _plan(model: Any, requests: Sequence[Request], precision: str) -> tuple[list[Cluster], _Tried | None]:
    """Return the clusters to score with the most sharing that the model supports, and the prefixes computed to test it.

    The second is None without sharing.
    """
    if _sees_everything(model):
        rows = rows_of(requests, shared=True)
        for plan in (clusters_of(rows), [Cluster((), tuple(rows))]):
            tried: _Tried = {}
            shares = any(cluster.prefix or len(row.positions) > 1 for cluster in plan for row in cluster.rows)
            if shares and _gives_the_same(model, plan, precision, tried):
                return plan, tried
    rows = rows_of(requests, shared=False)
    return [Cluster((), tuple(rows))] if rows else [], None


def _prefix(model: Any, cluster: Cluster, tried: _Tried) -> Prefix:
    earlier = tried.pop(cluster.prefix, None)
    return Prefix.of(model, cluster.prefix) if earlier is None else earlier


def _gives_the_same(model: Any, plan: list[Cluster], precision: str, tried: _Tried) -> bool:
    """Return True if the longest row behind the longest prefix scores its last continuation as a separate row does.

    A result for a number of tokens is not tested again on fewer tokens. It holds for more tokens too if the rotary
    embedding of a token depends on its position alone.
    """
    cluster = max(plan, key=lambda cluster: len(cluster.prefix))
    row = max(cluster.rows, key=lambda row: (len(row.positions) > 1, len(row)))
    checked = _found_same.setdefault(model, {})
    kind, size = (precision, bool(cluster.prefix), len(row.positions) > 1), len(cluster.prefix) + len(row)
    if size <= checked.get(kind, 0):
        return True
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # advice on the mask is for a caller that would go on regardless
            tried[cluster.prefix] = Prefix.of(model, cluster.prefix)
            together = _score_rows(model, [row], tried[cluster.prefix])[0]
    except (RuntimeError, ValueError, TypeError, IndexError, AttributeError):
        return False
    alone = Row(cluster.prefix + row.context, row.continuations[-1:], (0,))
    apart = _score_rows(model, [alone], None)[0]
    same = abs(together[-1].log_likelihood - apart[0].log_likelihood) < _CLOSE[precision]
    if same:
        checked[kind] = math.inf if _turns_by_place(model) else size
    return same


def _turns_by_place(model: Any) -> bool:
    """Return True if positions are rotary embeddings of fixed frequencies."""
    rotary: dict[str, Any] = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    return "rope_type" in rotary and rotary["rope_type"] not in _LENGTH_TURNS


def _sees_everything(model: Any) -> bool:
    """Return True if every layer attends to all preceding tokens and takes our tensor as its attention mask."""
    config = model.config.get_text_config()
    layers = getattr(config, "layer_types", None)
    full = set(layers) == {"full_attention"} if layers else getattr(config, "sliding_window", None) is None
    return full and config._attn_implementation in ("sdpa", "eager")


def _padded_length(model: Any, longest: int, device: str) -> int:
    """Return the padded length of a row in tokens: on a GPU a multiple of 64 if the model has that many positions.

    cuDNN builds a graph for every new length (from its source; not measured on a GPU). Virtual tokens in front take
    positions of their own.
    """
    rounded = -(-longest // _GPU_MULTIPLE) * _GPU_MULTIPLE
    prompt = getattr(model, "active_peft_config", None)
    virtual = prompt.num_virtual_tokens if prompt is not None and prompt.is_prompt_learning else 0
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None) or longest
    return rounded if device == "cuda" and rounded + virtual <= positions else longest


def _score_rows(model: Any, rows: list[Row], prefix: Prefix | None) -> list[list[Score]]:
    """Score rows in one pass behind `prefix`. If it is None, run the model on plain rows, without sharing."""
    device = model.get_input_embeddings().weight.device
    length = _padded_length(model, max(map(len, rows)), device.type)
    ids_BT = torch.zeros(len(rows), length, dtype=torch.long)  # shape suffixes: batch, tokens
    position_BT, wanted_BT = torch.zeros_like(ids_BT), torch.zeros_like(ids_BT, dtype=torch.bool)
    segment_BT = torch.full_like(ids_BT, -1)  # -1 padding, 0 context, 1.. continuations
    for i, row in enumerate(rows):
        end = len(row.context)
        ids_BT[i, :end], position_BT[i, :end], segment_BT[i, :end] = torch.tensor(row.context), torch.arange(end), 0
        wanted_BT[i, end - 1] = True
        for number, continuation in enumerate(row.continuations, start=1):
            width = len(continuation) - 1  # the prediction after the last token is not needed
            place = slice(end, end + width)
            ids_BT[i, place] = torch.tensor(continuation[:-1], dtype=torch.long)
            position_BT[i, place] = torch.arange(len(row.context), len(row.context) + width)
            segment_BT[i, place], wanted_BT[i, place] = number, True
            end += width
    ids_BT, segment_BT, wanted_BT = ids_BT.to(device), segment_BT.to(device), wanted_BT.to(device)
    if prefix is None:
        taker = model
        inputs = {"input_ids": ids_BT, "attention_mask": (segment_BT >= 0).long()}
    else:
        taker = prefix.model
        inputs = {
            "input_ids": ids_BT,
            "attention_mask": _mask(taker, segment_BT, len(prefix)),
            "position_ids": position_BT.to(device) + len(prefix),
            **prefix.inputs(),
        }
    with only_at(taker, wanted_BT):
        logits_NV = taker(**inputs, use_cache=False).logits[0]  # N: wanted positions, V: vocabulary
    return _read(logits_NV, rows)


def _mask(model: Any, segment_BT: torch.Tensor, num_before: int) -> torch.Tensor:
    """Return the attention mask of the tokens, shape (batch, 1, query, key).

    A token attends to all `num_before` tokens of the prefix. In its row it attends to the preceding tokens of the
    context and of its own continuation.
    """
    query, key = segment_BT[:, :, None], segment_BT[:, None, :]
    size, length = segment_BT.shape
    before = torch.ones(length, length, dtype=torch.bool, device=segment_BT.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=segment_BT.device)  # padding must attend to something
    allowed = before & (key >= 0) & ((key == 0) | (key == query)) | itself
    allowed = torch.cat([allowed.new_ones(size, length, num_before), allowed], dim=-1)[:, None]
    if getattr(model.config, "_attn_implementation", None) == "sdpa":
        return allowed
    return torch.zeros(allowed.shape, device=allowed.device).masked_fill(~allowed, torch.finfo(torch.float32).min)


def _read(logits_NV: torch.Tensor, rows: list[Row]) -> list[list[Score]]:
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
    scores = iter([Score(total, miss == 0) for total, miss in zip(totals, misses, strict=True)])
    return [[next(scores) for _ in row.continuations] for row in rows]
